"""Two sides timed in turn, each in a process of its own: A B A B, medians, peak memory.

Separate processes keep the sides' memory and thread pools apart; only one of them works at a time.
"""

import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.arguments import BenchmarkArgs
from benchmarks.setting import our_dtype
from training.estimates.roofline import Machine, measure_machine

LIBRARIES = ("torch", "transformers", "deepspeed", "trl")

# A side prepares itself and returns what one timed run is; a run returns how much it has done.
Side = Callable[[Any], Callable[[], float]]


def compare(
    args: BenchmarkArgs,
    *,
    ours: Side,
    peer: Side | None,
    unit: str,
    least_seconds: Callable[[Machine], float] | None = None,
    with_memory: bool = True,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run both sides in turn and print, return and perhaps write the result.

    `least_seconds` is the roofline's time of one of our runs, from the `Machine` it is given.
    Peak memory is that of a side's one process: `with_memory` False for a side of several.
    `details` go into the result as they are.
    """
    sides = {"ours": ours} | ({"peer": peer} if peer is not None else {})
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    amounts: dict[str, float] = {}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(closing(_Worker(side, args))) for name, side in sides.items()
        }
        for worker in workers.values():
            worker.run()  # left out: the first run allocates and compiles
        for _ in range(args.pairs):
            for name, worker in workers.items():
                taken, amounts[name] = worker.run()
                seconds[name].append(taken)
        memory = {name: worker.peak_memory() for name, worker in workers.items()}
    result = _result(args, seconds, amounts, unit, least_seconds)
    if with_memory:
        result["peak_memory_mb"] = memory
    result |= details or {}
    print(json.dumps(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _result(
    args: BenchmarkArgs,
    seconds: dict[str, list[float]],
    amounts: dict[str, float],
    unit: str,
    least_seconds: Callable[[Machine], float] | None,
) -> dict[str, Any]:
    result: dict[str, Any] = {"benchmark": Path(sys.argv[0]).stem, "flags": asdict(args)}
    for name, times in seconds.items():
        median = statistics.median(times)
        result[name] = {
            "median_s": round(median, 4),
            "all_s": [round(taken, 4) for taken in times],
            "per_s": round(amounts[name] / median, 2),
            "amount": amounts[name],
        }
    if "peer" in seconds:
        pairs = zip(seconds["ours"], seconds["peer"], strict=True)
        per_unit = amounts["ours"] / amounts["peer"]
        result["ratio"] = round(statistics.median(b / a * per_unit for a, b in pairs), 3)
    if least_seconds is not None:
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        machine = measure_machine(device, our_dtype(args))
        least = least_seconds(machine)
        result["roofline_share"] = round(least / statistics.median(seconds["ours"]), 3)
        result["machine"] = {name: float(f"{value:.3g}") for name, value in asdict(machine).items()}
    result["unit"] = unit
    result["versions"] = {name: _version(name) for name in LIBRARIES}
    result["processor"] = processor()
    result["date"] = time.strftime("%Y-%m-%d")
    return result


class _Worker:
    """One side in a process of its own."""

    def __init__(self, side: Side, args: BenchmarkArgs) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(side, args, theirs))
        self._process.start()
        theirs.close()
        self._answer()  # it is ready

    def run(self) -> tuple[float, float]:
        """Seconds and amount of one run."""
        self._pipe.send("run")
        seconds, amount = self._answer()
        return seconds, amount

    def peak_memory(self) -> float:
        """In MB; nothing runs after it."""
        self._pipe.send("end")
        peak: float = self._answer()
        return peak

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def _answer(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise SystemExit("benchmark: one side has failed; its message is above") from None


def _serve(side: Side, args: BenchmarkArgs, pipe: Connection) -> None:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    run = side(args)
    is_cuda = torch.cuda.is_available()
    pipe.send("ready")
    with suppress(EOFError, BrokenPipeError):  # the other side has failed
        while pipe.recv() == "run":
            started = time.perf_counter()
            amount = run()
            if is_cuda:
                torch.cuda.synchronize()
            pipe.send((time.perf_counter() - started, amount))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pipe.send(round(torch.cuda.max_memory_allocated() / 2**20 if is_cuda else peak, 1))


def processor() -> str:
    """The accelerator's name or the processor's, with the number of cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    return f"{name}, {os.cpu_count()} cores"


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"
