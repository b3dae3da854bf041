"""Time two sides in turn (A B A B), each in its own process: medians and peak memory.

Separate processes keep memory and thread pools apart; only one of them works at a time.
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
from functools import partial
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.arguments import BenchmarkArgs, TrainingBenchmarkArgs
from benchmarks.setting import choose_dtype
from training.estimates.roofline import Machine, measure_machine

LIBRARIES = ("torch", "transformers", "deepspeed", "trl")

# A side prepares itself and returns a run, which is timed and returns the amount of work done.
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
    """Time both sides in turn; print and return the result, and write it to --json.

    `least_seconds` estimates the roofline's time of one of our runs. Peak memory is that of one
    process: `with_memory` is False for a side of several. `details` are added to the result.
    """
    sides = {"ours": ours} | ({"peer": peer} if peer is not None else {})
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    amounts: dict[str, float] = {}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(closing(_Worker(side, args))) for name, side in sides.items()
        }
        for worker in workers.values():
            worker.run()  # not timed: the first run allocates and compiles
        for _ in range(args.pairs):
            for name, worker in workers.items():
                duration, amounts[name] = worker.run()
                seconds[name].append(duration)
        memory = {name: worker.finish() for name, worker in workers.items()}
    result = _summarize(args, seconds, amounts, unit, least_seconds)
    if with_memory:
        result["peak_memory_mb"] = memory
    result |= details or {}
    print(json.dumps(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def compare_with_trl(
    args: TrainingBenchmarkArgs,
    ours: Side,
    trl: Side,
    unit: str,
    least_seconds: Callable[[Any, Machine], float],
) -> None:
    """Time our side, beside TRL's with --peer trl."""
    compare(
        args,
        ours=ours,
        peer=trl if args.peer == "trl" else None,
        unit=unit,
        least_seconds=partial(least_seconds, args),
    )


def _summarize(
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
            "all_s": [round(duration, 4) for duration in times],
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
        machine = measure_machine(device, choose_dtype(args))
        least = least_seconds(machine)
        result["roofline_share"] = round(least / statistics.median(seconds["ours"]), 3)
        result["machine"] = {name: float(f"{value:.3g}") for name, value in asdict(machine).items()}
    result["unit"] = unit
    result["versions"] = {name: _find_version(name) for name in LIBRARIES}
    result["processor"] = describe_processor()
    result["date"] = time.strftime("%Y-%m-%d")
    return result


class _Worker:
    """One side in its own process."""

    def __init__(self, side: Side, args: BenchmarkArgs) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(side, args, theirs))
        self._process.start()
        theirs.close()
        self._receive()  # it is ready

    def run(self) -> tuple[float, float]:
        """Run once; returns seconds and amount."""
        self._pipe.send("run")
        seconds, amount = self._receive()
        return seconds, amount

    def finish(self) -> float:
        """Stop running; returns the peak memory in MB."""
        self._pipe.send("end")
        peak: float = self._receive()
        return peak

    def close(self) -> None:
        """Wait for the process to end."""
        self._pipe.close()
        self._process.join()

    def _receive(self) -> Any:
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


def describe_processor() -> str:
    """Return the accelerator's name, or the processor's with its number of cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    return f"{name}, {os.cpu_count()} cores"


def _find_version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"
