"""Log the figures of a dry run, and measure the free memory that they are compared with."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.estimates.memory import Estimate
from training.estimates.roofline import Machine
from training.estimates.shapes import LargestBatch, ModelShape, Setting
from training.runtime.distributed import World

logger = logging.getLogger(__name__)

# Shares of the roofline that runs reach (benchmarks/README.md).
REACHED = (0.7, 0.45)
PERCENTILES = (50, 90, 99)


def log_lengths(unit: str, lengths: Sequence[int]) -> None:
    """Log the lengths in tokens of the training data."""
    ordered = sorted(lengths)
    shares = [f"{p} % up to {ordered[(len(ordered) - 1) * p // 100]}" for p in PERCENTILES]
    logger.info(
        "lengths: %d %s of %d to %d tokens; %s",
        len(ordered), unit, ordered[0], ordered[-1], ", ".join(shares),
    )  # fmt: skip


def log_batches(args: SFTArgs | RewardArgs, unit: str, world: World, batch: LargestBatch) -> None:
    """Log how a batch is split over ranks and micro-batches."""
    size = args.batch_size
    logger.info(
        "batch: %d %s a step on %d rank%s: %d each, in at most %d micro-batch%s of %d padded "
        "tokens at most (--micro_batch_tokens %d)",
        size, unit, world.size, "s" * (world.size > 1), -(-size // world.size),
        batch.micro_batches, "es" * (batch.micro_batches > 1), batch.tokens,
        args.micro_batch_tokens,
    )  # fmt: skip
    if size < world.size:
        logger.info("warning: a step of %d %s leaves ranks without any", size, unit)


def log_steps(count: int, epochs: float) -> None:
    logger.info("steps: %d optimizer steps, %.3g epochs", count, epochs)


def log_rollouts(args: PPOArgs, world: World, prompts: int) -> None:
    """Log the rollouts, minibatches and steps of stage 3 on this number of prompts."""
    minibatches = args.sequences_per_step // args.minibatch_size
    logger.info(
        "rollout: %d prompts x %d = %d responses a step on %d rank%s, at most %d tokens each",
        args.rollout_batch_size, args.samples_per_prompt, args.sequences_per_step, world.size,
        "s" * (world.size > 1), args.max_new_tokens,
    )  # fmt: skip
    logger.info(
        "update: %d epochs x %d minibatches of %d, %d a rank: %d optimizer steps a step",
        args.ppo_epochs, minibatches, args.minibatch_size, args.minibatch_size // world.size,
        args.ppo_epochs * minibatches,
    )  # fmt: skip
    logger.info(
        "steps: %d, %d optimizer steps, %.3g epochs of the prompts",
        args.max_steps, args.max_steps * args.ppo_epochs * minibatches,
        args.max_steps * args.rollout_batch_size / prompts,
    )  # fmt: skip


def log_model(name: str, shape: ModelShape) -> None:
    logger.info(
        "%s: %s parameters, %s trained (%.3g %%)",
        name, f"{shape.parameters:,}", f"{shape.trained:,}", 100 * shape.trained / shape.parameters,
    )  # fmt: skip


def log_memory(estimate: Estimate, setting: Setting) -> None:
    """Log the memory that a rank needs and that this machine has; warn if it does not fit."""
    is_cpu = setting.device == "cpu"
    needed = estimate.total(setting)
    if is_cpu:
        # This process, mostly libraries.
        needed += 1024.0 * sum(_read_field(Path("/proc/self/status"), "VmRSS:"))
        note = "the libraries' included"
    else:
        note = f"and {_format_gb(estimate.host)} of its host's"
    logger.info(
        "memory: %s GB a rank under ZeRO %d on %d rank%s, %s",
        _format_gb(needed), setting.zero_stage, setting.ranks, "s" * (setting.ranks > 1), note,
    )  # fmt: skip
    for title, sizes in (
        ("stays", estimate.stays),
        ("passes, the largest counts", estimate.phases),
    ):
        logger.info(
            "  %s: %s", title, ", ".join(f"{name} {_format_gb(n)}" for name, n in sizes.items())
        )
    local_ranks = _count_local_ranks(setting.ranks)
    free = read_free_memory() if is_cpu else float(torch.cuda.mem_get_info()[0])
    wanted = needed * local_ranks if is_cpu else needed
    logger.info(
        "  there is: %s GB on this %s, for %d of the ranks",
        _format_gb(free), "host" if is_cpu else "GPU", local_ranks,
    )  # fmt: skip
    if wanted > free:
        logger.info(
            "warning: does not fit: %s GB wanted, %s there; lower --micro_batch_tokens, give "
            "--gradient_checkpointing, use more ranks with a higher --zero_stage, or a smaller "
            "model",
            _format_gb(wanted), _format_gb(free),
        )  # fmt: skip


def log_time(least: float, machine: Machine, *, limit: float = 0.0) -> None:
    """Log how long the run takes, at the speed measured now; `least` is the roofline in seconds."""
    low, high = (least / share for share in REACHED)
    bound = f", ended after {_format_time(limit)} by --max_seconds" if 0 < limit < high else ""
    logger.info(
        "time: about %s to %s%s, without evaluations, where each rank multiplies at %.3g TFLOP/s "
        "(measured now)",
        _format_time(low), _format_time(high), bound, machine.matrix_rate / 1e12,
    )  # fmt: skip


def _format_gb(size: float) -> str:
    return f"{size / 1e9:.2f}"


def _format_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _count_local_ranks(ranks: int) -> int:
    """Return the number of ranks on this host according to its launcher, else 1."""
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "NUM_GPUS"):
        if os.environ.get(name, "").isdecimal():
            return max(min(int(os.environ[name]), ranks), 1)
    return 1


def read_free_memory(root: Path = Path("/")) -> float:
    """Read the bytes that programs may still take from the system, or from a container's limit.

    A container's usage includes cached files, which the kernel frees on demand; the system's
    `MemAvailable` already counts those as free.
    """
    free = [1024.0 * kilobytes for kilobytes in _read_field(root / "proc/meminfo", "MemAvailable:")]
    limits = _read_lines(root / "sys/fs/cgroup/memory.max")
    used = _read_lines(root / "sys/fs/cgroup/memory.current")
    if limits and used and limits[0].isdecimal():
        counts = dict(line.split() for line in _read_lines(root / "sys/fs/cgroup/memory.stat"))
        cached = sum(float(counts.get(name, 0)) for name in ("active_file", "inactive_file"))
        free.append(float(limits[0]) - float(used[0]) + cached)
    return min(free, default=float("inf"))


def _read_field(path: Path, name: str) -> list[int]:
    return [int(line.split()[1]) for line in _read_lines(path) if line.startswith(name)]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
