"""Trace one step, on demand."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from training.arguments.common import CommonArgs
from training.runtime.distributed import World

logger = logging.getLogger(__name__)
ROWS = 40  # operators in the table


@contextmanager
def profile_step(args: CommonArgs, world: World, step: int) -> Iterator[None]:
    """Record step --profile_step on rank 0; do nothing for other steps.

    Writes `profile/step_N.json`, which chrome://tracing and Perfetto open, and beside it
    `step_N.txt`, the operators sorted by their self time.
    """
    if not args.profile_step or step != args.profile_step or not world.is_main:
        yield
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if world.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        yield
    folder = Path(args.output_dir) / "profile"
    folder.mkdir(parents=True, exist_ok=True)
    profile.export_chrome_trace(str(folder / f"step_{step}.json"))
    order = f"self_{world.device.type}_time_total"
    table = profile.key_averages().table(sort_by=order, row_limit=ROWS)
    (folder / f"step_{step}.txt").write_text(table + "\n", encoding="utf-8")
    logger.info("profile of step %d: %s", step, folder / f"step_{step}.txt")
