"""The loop that stages 1 and 2 share: steps, evaluations, and which model is kept."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from training.arguments.common import CommonArgs
from training.arguments.parsing import GuardStop
from training.draws import hash_key
from training.launching import stopping
from training.runtime.distributed import World
from training.runtime.metrics import LOG, MetricLogger, Metrics
from training.runtime.out_of_memory import explain_out_of_memory
from training.runtime.profiling import profile_step
from training.runtime.saver import CheckpointSaver
from training.trainers.guards import Guard
from training.trainers.schedule import Schedule

Batch = TypeVar("Batch")


@dataclass
class Kept:
    """Which model is kept, and whether the one that has just been trained was evaluated yet."""

    best: float = float("inf")
    is_eval_due: bool = False

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.is_eval_due = state["best"], state["is_eval_due"]


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
    checkpoints: CheckpointSaver,
    more_follows: bool = False,
) -> None:
    """Train to the end of the schedule, and save that too where `more_follows` in this run.

    `batches` yields each batch and whether it ends an epoch. The model with the lowest
    `loss/eval` is kept in --output_dir, the last one in `last/` there; without held-out data
    both are the last. `sample` gives the examples that go to samples.jsonl at each evaluation. A
    run that goes on from a checkpoint passes over the batches that it has had.
    """
    kept, guard = Kept(), Guard(args, schedule)
    checkpoints.register(LOG, log.state_dict)
    checkpoints.restore_and_register("schedule", schedule)
    checkpoints.restore_and_register("kept", kept)
    checkpoints.restore_and_register("guard", guard)
    if not checkpoints.is_in_place:
        kept.best = float("inf")  # that model lies in the other folder
    for _ in range(schedule.step + guard.skipped):
        next(batches)
    with checkpoints.save_on_stop(lambda: schedule.step):
        while True:
            if kept.is_eval_due and evaluate is not None:
                with explain_out_of_memory("evaluate", args):
                    held_out = evaluate()
                checkpoints.record_evaluation(held_out)
                with stopping.delay_stop():
                    _keep_if_best(args, schedule, log, kept, held_out, sample, save)
            checkpoints.save_if_due(schedule.step, always=more_follows and schedule.is_done)
            if schedule.is_done:
                break
            batch, ends_epoch = next(batches)
            _seed(args.seed, schedule.step + 1, world.rank)
            with profile_step(args, world, schedule.step + 1), explain_out_of_memory("train", args):
                metrics = guard.step(f"step {schedule.step + 1}", partial(step, batch))
            is_made = metrics is not None
            log.log(schedule.step + (not is_made), {**(metrics or {}), **guard.metrics})
            is_due = is_made and schedule.step % eval_every == 0 if eval_every else ends_epoch
            kept.is_eval_due = is_due or schedule.is_done
    save(Path(args.output_dir) / "last")
    if kept.best == float("inf"):
        save(Path(args.output_dir))
        log.log_samples(schedule.step, sample())


def _keep_if_best(
    args: CommonArgs,
    schedule: Schedule,
    log: MetricLogger,
    kept: Kept,
    held_out: Metrics,
    sample: Callable[[], Sequence[Mapping[str, Any]]],
    save: Callable[[Path], None],
) -> None:
    """Log an evaluation, and publish the model if none before it was as good.

    Raises `GuardStop` for a loss that is not finite: nothing says what such a model is worth.
    """
    log.log(schedule.step, held_out, always_show=True)
    if not math.isfinite(held_out["loss/eval"]):
        raise GuardStop(
            f"after step {schedule.step} the loss of the held-out data is {held_out['loss/eval']}: "
            "lower the learning rate, or look at the held-out rows; the model is not saved, and "
            "the best one before it stays"
        )
    log.log_samples(schedule.step, sample())
    if held_out["loss/eval"] < kept.best:
        kept.best = held_out["loss/eval"]
        save(Path(args.output_dir))
    kept.is_eval_due = False


def _seed(seed: int, step: int, rank: int) -> None:
    """Dropout's draws are the step's own, so that a resumed run draws the same."""
    torch.manual_seed(hash_key(seed, step, rank) >> 1)


def epochs(make: Callable[[int], Sequence[Batch]]) -> Iterator[tuple[Batch, bool]]:
    """Batches of epoch 0, 1, 2, ... for ever, each with whether it is its epoch's last."""
    for epoch in itertools.count():
        batches = make(epoch)
        for index, batch in enumerate(batches):
            yield batch, index == len(batches) - 1
