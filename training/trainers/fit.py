"""The loop that stages 1 and 2 share: steps, evaluations, and which model is kept."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from training.arguments.common import CommonArgs
from training.runtime.distributed import World
from training.runtime.exhaustion import memory_phase
from training.runtime.metrics import MetricLogger, Metrics
from training.runtime.profiling import profiled
from training.trainers.guards import Guard
from training.trainers.schedule import Schedule

Batch = TypeVar("Batch")


def fit(
    args: CommonArgs,
    world: World,
    schedule: Schedule,
    log: MetricLogger,
    *,
    batches: Iterator[tuple[Batch, bool]],
    step: Callable[[Batch, float], Metrics],
    evaluate: Callable[[], Metrics] | None,
    sample: Callable[[], Sequence[Mapping[str, Any]]],
    save: Callable[[Path], None],
    eval_every: int,
) -> None:
    """Train to the end of the schedule.

    `batches` yields each batch and whether it ends an epoch. The model with the lowest
    `loss/eval` is kept in --output_dir, the last one in `last/` there; without held-out data
    both are the last. `sample` gives the examples that go to samples.jsonl at each evaluation.
    """
    best = float("inf")
    guard = Guard(args, schedule)
    while not schedule.is_done:
        batch, ends_epoch = next(batches)
        with profiled(args, world, schedule.step + 1), memory_phase("train", args):
            metrics = guard.step(f"step {schedule.step + 1}", partial(step, batch))
        is_made = metrics is not None
        log.log(schedule.step + (not is_made), {**(metrics or {}), **guard.metrics})
        is_due = is_made and schedule.step % eval_every == 0 if eval_every else ends_epoch
        if evaluate is not None and (is_due or schedule.is_done):
            with memory_phase("evaluate", args):
                held_out = evaluate()
            log.log(schedule.step, held_out, always_show=True)
            log.samples(schedule.step, sample())
            if held_out["loss/eval"] < best:
                best = held_out["loss/eval"]
                save(Path(args.output_dir))
    save(Path(args.output_dir) / "last")
    if best == float("inf"):
        save(Path(args.output_dir))
        log.samples(schedule.step, sample())


def epochs(make: Callable[[int], Sequence[Batch]]) -> Iterator[tuple[Batch, bool]]:
    """Batches of epoch 0, 1, 2, ... for ever, each with whether it is its epoch's last."""
    for epoch in itertools.count():
        batches = make(epoch)
        for index, batch in enumerate(batches):
            yield batch, index == len(batches) - 1
