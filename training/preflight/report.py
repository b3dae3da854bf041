"""What a dry run says, line by line."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from training.arguments.ppo import PPOArgs
from training.estimates.memory import Estimate
from training.estimates.roofline import Machine
from training.estimates.shapes import LargestBatch, ModelShape, Setting
from training.runtime.distributed import World

logger = logging.getLogger(__name__)

GB, MB = 1e9, 1e6
# Shares of the roofline that runs reach (benchmarks/README.md).
REACHED = (0.7, 0.45)
PERCENTILES = (50, 90, 99)


def lengths(what: str, found: Sequence[int]) -> None:
    """Tokens of the sequences that are trained on."""
    ordered = sorted(found)
    shares = [f"{p} % up to {ordered[(len(ordered) - 1) * p // 100]}" for p in PERCENTILES]
    logger.info(
        "lengths: %d %s of %d to %d tokens; %s",
        len(ordered), what, ordered[0], ordered[-1], ", ".join(shares),
    )  # fmt: skip


def batches(size: int, unit: str, world: World, batch: LargestBatch, budget: int) -> None:
    """How a batch is dealt to ranks and micro-batches."""
    share = -(-size // world.size)
    logger.info(
        "batch: %d %s a step on %d rank%s: %d each, in at most %d micro-batch%s of %d padded "
        "tokens at most (--micro_batch_tokens %d)",
        size, unit, world.size, "s" * (world.size > 1), share, batch.micro_batches,
        "es" * (batch.micro_batches > 1), batch.tokens, budget,
    )  # fmt: skip
    if size < world.size:
        logger.info("warning: a step of %d %s leaves ranks without any", size, unit)


def steps(count: int, epochs: float) -> None:
    logger.info("steps: %d optimizer steps, %.3g epochs", count, epochs)


def rollouts(args: PPOArgs, world: World, prompts: int) -> None:
    """The batch arithmetic of stage 3."""
    minibatches = args.sequences_per_step // args.minibatch_size
    ranks = f"{world.size} rank{'s' * (world.size > 1)}"
    logger.info(
        "rollout: %d prompts x %d = %d responses a step on %s, at most %d tokens each",
        args.rollout_batch_size, args.samples_per_prompt, args.sequences_per_step, ranks,
        args.max_new_tokens,
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


def model(name: str, size: ModelShape) -> None:
    share = size.trained / size.parameters
    logger.info(
        "%s: %s parameters, %s trained (%.3g %%)",
        name, f"{size.parameters:,}", f"{size.trained:,}", 100 * share,
    )  # fmt: skip


def memory(estimate: Estimate, setting: Setting) -> None:
    """What a rank needs beside what there is, and a warning where it will not fit."""
    stays = ", ".join(f"{name} {_gb(size)}" for name, size in estimate.stays.items())
    passes = ", ".join(f"{name} {_gb(size)}" for name, size in estimate.phases.items())
    needed = estimate.total(setting)
    host = _resident() if setting.device == "cpu" else estimate.host
    logger.info(
        "memory: %s GB a rank under ZeRO %d on %d rank%s, %s",
        _gb(needed + (host if setting.device == "cpu" else 0)), setting.zero_stage, setting.ranks,
        "s" * (setting.ranks > 1),
        "the libraries' included" if setting.device == "cpu" else f"and {_gb(host)} of its host's",
    )  # fmt: skip
    logger.info("  stays: %s", stays)
    logger.info("  passes, the largest counts: %s", passes)
    here = _ranks_here(setting.ranks)
    free, place = _free_memory(setting)
    wanted = (needed + host) * here if setting.device == "cpu" else needed
    logger.info("  there is: %s GB on this %s, for %d of the ranks", _gb(free), place, here)
    if wanted > free:
        logger.info(
            "warning: does not fit: %s GB wanted, %s there; lower --micro_batch_tokens, give "
            "--gradient_checkpointing, use more ranks with a higher --zero_stage, or a smaller "
            "model",
            _gb(wanted), _gb(free),
        )  # fmt: skip


def seconds(least: float, machine: Machine, *, limit: float = 0.0) -> None:
    """How long the run takes, from what this rank's share of the machine reaches now."""
    low, high = (least / share for share in REACHED)
    bound = f", ended after {_time(limit)} by --max_seconds" if 0 < limit < high else ""
    logger.info(
        "time: about %s to %s%s, without evaluations, where each rank multiplies at %.3g TFLOP/s "
        "(measured now)",
        _time(low), _time(high), bound, machine.matrix_rate / 1e12,
    )  # fmt: skip


def _gb(size: float) -> str:
    return f"{size / GB:.2f}"


def _mb(size: float) -> str:
    return f"{size / MB:,.2f}"


def _time(count: float) -> str:
    if count < 120:
        return f"{count:.0f} s"
    return f"{count / 60:.0f} min" if count < 7200 else f"{count / 3600:.1f} h"


def _ranks_here(ranks: int) -> int:
    """Ranks on this host, as far as its launcher says."""
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "NUM_GPUS"):
        if os.environ.get(name, "").isdecimal():
            return max(min(int(os.environ[name]), ranks), 1)
    return 1


def _free_memory(setting: Setting) -> tuple[float, str]:
    if setting.device == "cuda":
        return float(torch.cuda.mem_get_info()[0]), "GPU"
    return free_host_memory(), "host"


def free_host_memory(root: Path = Path("/")) -> float:
    """Bytes that programs may still take: the system's, or what a container has left of its own.

    A container's account has the files in it that the kernel keeps and gives up when it must; the
    system's `MemAvailable` takes them for free already.
    """
    found = []
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            found.append(1024.0 * int(value.split()[0]))
    limits = _lines(root / "sys/fs/cgroup/memory.max")
    used = _lines(root / "sys/fs/cgroup/memory.current")
    if limits and used and limits[0].isdecimal():
        counts = dict(line.split() for line in _lines(root / "sys/fs/cgroup/memory.stat"))
        kept = sum(float(counts.get(name, 0)) for name in ("active_file", "inactive_file"))
        found.append(float(limits[0]) - float(used[0]) + kept)
    return min(found, default=float("inf"))


def _resident() -> float:
    """Bytes of this process, which are mostly libraries."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmRSS:"):
            return 1024.0 * int(line.split()[1])
    return 0.0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
