"""Memory per rank: measured and estimated, for stages 1 and 3.

python -m benchmarks.memory --sizes tiny --zero_stages 0 2 3 --ranks 1 2 --dtypes fp32 bf16

Each rank is a child of one process that has imported everything. Measured is its peak resident
memory over what it had when it joined the others, the libraries' files left out.
"""

import json
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.models import get_vocabulary_size, make_rows, write_models
from training.arguments.common import check_can_write
from training.arguments.parsing import arg, parse_args, require

MB = 1e6
STEPS = 2


@dataclass(frozen=True, kw_only=True)
class MemoryBenchmarkArgs:
    """Every combination of these is measured."""

    stages: list[str] = arg(["sft", "ppo"], "Of sft and ppo.")
    sizes: list[str] = arg(["tiny"], "Of tiny, small and medium.")
    zero_stages: list[int] = arg([0, 2, 3], "Of 0, 1, 2 and 3.")
    ranks: list[int] = arg([1, 2], "Processes on this machine.")
    dtypes: list[str] = arg(["fp32", "bf16"], "Of fp32 and bf16.")
    batch: int = arg(16, "Sequences of a step, over all ranks.")
    length: int = arg(128, "Tokens of each; in stage 3 half of them are the prompt.")
    micro_batch_tokens: int = arg(512, "--micro_batch_tokens of the stage.")
    json: str = arg("", "File for the result; nothing is written without.")

    def __post_init__(self) -> None:
        for name, known in (
            ("stages", {"sft", "ppo"}),
            ("sizes", {"tiny", "small", "medium"}),
            ("zero_stages", {0, 1, 2, 3}),
            ("dtypes", {"fp32", "bf16"}),
        ):
            given = getattr(self, name)
            require(
                bool(given) and set(given) <= known,
                f"--{name} takes some of {sorted(known, key=str)}, got {given}",
            )
        require(
            bool(self.ranks) and all(n >= 1 and self.batch % (2 * n) == 0 for n in self.ranks),
            f"--batch ({self.batch}) must be a multiple of twice each of --ranks, got {self.ranks}",
        )
        for name in ("length", "micro_batch_tokens"):
            value = getattr(self, name)
            require(value >= 4, f"--{name} must be at least 4, got {value}")
        if self.json:
            check_can_write(self, "json", is_file=True)


@dataclass(frozen=True)
class Cell:
    """One combination."""

    stage: str
    size: str
    zero_stage: int
    ranks: int
    dtype: str


def cells(args: MemoryBenchmarkArgs) -> list[Cell]:
    return [
        Cell(stage, size, zero_stage, ranks, dtype)
        for size in args.sizes
        for stage in args.stages
        for dtype in args.dtypes
        for zero_stage in args.zero_stages
        for ranks in args.ranks
    ]


def settings(args: MemoryBenchmarkArgs, cell: Cell, folder: Path) -> Any:
    """The flags of the stage."""
    from training.arguments.ppo import PPOArgs
    from training.arguments.sft import SFTArgs

    common: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "zero_stage": cell.zero_stage,
        "dtype": cell.dtype,
        "micro_batch_tokens": args.micro_batch_tokens,
    }
    lm, half = str(folder / "lm"), args.length // 2
    if cell.stage == "sft":
        return SFTArgs(
            **common, model_name_or_path=lm, batch_size=args.batch, max_length=args.length
        )
    return PPOArgs(
        **common,
        actor_model_name_or_path=lm,
        reward_model_name_or_path=str(folder / "reward"),
        rollout_batch_size=args.batch,
        minibatch_size=args.batch // 2,
        max_prompt_length=half,
        max_new_tokens=half,
        missing_eos="none",
    )


def measure(args: MemoryBenchmarkArgs, cell: Cell, folder: Path) -> tuple[float, float]:
    """Measured and calculated bytes of rank 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = []
    for rank in range(cell.ranks):
        own, theirs = context.Pipe()
        process = context.Process(target=serve, args=(args, cell, folder, rank, port, theirs))
        process.start()
        theirs.close()
        ranks.append((process, own))
    try:
        answers = [pipe.recv() for _, pipe in ranks]
    except EOFError:
        raise SystemExit(f"benchmark: a rank of {cell} has failed; its message is above") from None
    finally:
        for process, _ in ranks:
            process.join()
    measured, calculated = answers[0]
    return measured, calculated


def serve(
    args: MemoryBenchmarkArgs, cell: Cell, folder: Path, rank: int, port: int, pipe: Connection
) -> None:
    """One rank: a few steps, then what they took at most."""
    import torch

    from training.runtime import distributed

    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": cell.ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"})
    flags = settings(args, cell, folder)
    with distributed.join_ranks(flags) as world:
        world.barrier()
        before = _memory()["RssAnon"]
        Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
        run = run_sft if cell.stage == "sft" else run_ppo
        calculated = run(args, cell, flags, world)
        found = _memory()
        files = found["RssFile"] - _mapped_weights()
        pipe.send((found["VmHWM"] - files - before, calculated))


def run_sft(args: MemoryBenchmarkArgs, cell: Cell, flags: Any, world: Any) -> float:
    """Steps of stage 1; the calculated bytes."""
    from training.data.encode import EncodedText
    from training.estimates.shapes import LargestBatch
    from training.models.loading import load_causal_lm
    from training.models.tokenizers import load_tokenizer
    from training.preflight.stage_memory import estimate_sft
    from training.runtime import engine
    from training.trainers.sft.setup import build_engine
    from training.trainers.sft.step import SFTTrainer

    tokenizer = load_tokenizer(flags.model_name_or_path, flag="")
    with engine.shard_while_loading(flags, world):
        lm = load_causal_lm(flags.model_name_or_path, tokenizer, device=world.device, dropout=None)
    actor = build_engine(lm, flags, world, tokenizer)
    rows = make_rows([args.length] * args.batch, get_vocabulary_size(cell.size), seed=3)
    texts = [EncodedText(row, [False] + [True] * (args.length - 1)) for row in rows]
    trainer = SFTTrainer(flags, world, actor, texts)
    for _ in range(STEPS):
        trainer.step(range(args.batch), 1.0)
    together = max(args.micro_batch_tokens // args.length, 1)
    share = args.batch // world.size
    tokens, steps = min(together, share) * args.length, -(-share // together)
    batch = LargestBatch(tokens, args.length, tokens, steps)
    size, setting = _shape(flags, world, flags.model_name_or_path, len(tokenizer))
    return estimate_sft(flags, size, setting, batch).total(setting)


def run_ppo(args: MemoryBenchmarkArgs, cell: Cell, flags: Any, world: Any) -> float:
    """Steps of stage 3; the calculated bytes."""
    from training.data.encode import EncodedPrompt
    from training.preflight.stage_memory import estimate_ppo
    from training.trainers.ppo import setup
    from training.trainers.ppo.update import PPOTrainer
    from training.trainers.speed import Speed

    tokenizer, scalar = setup.check_stages(flags, world)
    models = setup.load_models(flags, world, tokenizer, scalar)
    trainer = PPOTrainer(flags, world, tokenizer, models)
    Speed(models.actor.module.lm, models.actor.module.compute_dtype, world)
    half = args.length // 2
    rows = make_rows([half] * args.batch, get_vocabulary_size(cell.size), seed=1)
    prompts = [EncodedPrompt(n, row, "", {}) for n, row in enumerate(rows)]
    for step in range(1, STEPS + 1):
        trainer.train_step(step, prompts)
    tokens = len(tokenizer)
    size, setting = _shape(flags, world, flags.actor_model_name_or_path, tokens)
    critic, _ = _shape(flags, world, flags.reward_model_name_or_path, tokens, beside=size.width)
    return estimate_ppo(flags, size, critic, setting, half).total(setting)


def _shape(flags: Any, world: Any, path: str, tokens: int, *, beside: int = 0) -> tuple[Any, Any]:
    """A model's shape and the run's setting, as the dry run has them."""
    from training.estimates.shapes import read_shape
    from training.models.cpu_blocks import use_cpu_blocks
    from training.models.loading import build_meta_lm, load_config
    from training.preflight.dry_run import make_setting

    lm: Any = build_meta_lm(load_config(path, flag="", hint=""), tokens)
    use_cpu_blocks(lm)
    return read_shape(lm.base_model if beside else lm, extra=beside), make_setting(flags, world, lm)


def _memory() -> dict[str, float]:
    """Read the bytes of this process by kind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = [line.split(":") for line in lines if line.startswith(("Rss", "VmHWM"))]
    return {name: 1024.0 * int(value.split()[0]) for name, value in pairs}


def _mapped_weights() -> float:
    """Read the bytes of weights that are mapped from their files."""
    total, is_weights = 0.0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(None, 1)[0]
        if not first.endswith(":"):
            is_weights = line.endswith(".safetensors")
        elif is_weights and first == "Rss:":
            total += 1024.0 * int(line.split()[1])
    return total


def _import_all() -> None:
    """Import once what the ranks need."""
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    import training.preflight.dry_run  # noqa: F401
    from training.runtime.distributed import _import_deepspeed

    torch.set_num_threads(1)
    _import_deepspeed()


def results(args: MemoryBenchmarkArgs) -> list[dict[str, Any]]:
    """Each cell with measured and calculated MB and their ratio."""
    _import_all()
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            context = multiprocessing.get_context("fork")
            writer = context.Process(target=write_models, args=(size, args.length, Path(name)))
            writer.start()  # not here: what it leaves in the heap would be the ranks' too
            writer.join()
            for cell in [cell for cell in cells(args) if cell.size == size]:
                measured, calculated = measure(args, cell, Path(name))
                ratio = round(calculated / measured, 3)
                figures = {"measured_mb": measured / MB, "calculated_mb": calculated / MB}
                rows.append({**asdict(cell), **{k: round(v) for k, v in figures.items()},
                             "ratio": ratio})  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(MemoryBenchmarkArgs, argv)
    found = results(args)
    if args.json:
        content = {"flags": asdict(args), "cells": found}
        Path(args.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
