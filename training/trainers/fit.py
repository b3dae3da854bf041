"""Training loop of stages 1 and 2: steps, evaluations, and keeping the best model."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from training.arguments.parsing import GuardStop
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.draws import hash_key
from training.launching import stopping
from training.runtime.distributed import World
from training.runtime.metrics import LOG, MetricLogger, Metrics
from training.runtime.out_of_memory import explain_out_of_memory
from training.runtime.profiling import profile_step
from training.runtime.saver import CheckpointSaver
from training.trainers.guards import Guard
from training.trainers.schedule import Schedule

Args = SFTArgs | RewardArgs
Sampler = Callable[[], Sequence[Mapping[str, Any]]]


class Trainer(Protocol):
    """The step of a stage, and the batches it takes."""

    def batches(self, epoch: int) -> Sequence[Any]:
        """Return the batches of an epoch, equal on every rank."""

    def step(self, batch: Any, lr_scale: float, /) -> Metrics:
        """Make one optimizer step; raises `SkipStep` if its numbers are not finite."""


@dataclass
class Kept:
    """Loss of the best model so far, and whether the current one still has to be evaluated."""

    best: float = float("inf")
    is_eval_due: bool = False

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.is_eval_due = state["best"], state["is_eval_due"]


def fit(
    args: Args,
    world: World,
    trainer: Trainer,
    schedule: Schedule,
    log: MetricLogger,
    checkpoints: CheckpointSaver,
    evaluate: Callable[[], Metrics] | None,
    sample: Sampler,
    save: Callable[[Path], None],
) -> None:
    """Train to the end of the schedule.

    Saves the model with the lowest `loss/eval` in --output_dir and the last one in `last/` there.
    Without held-out data `evaluate` is None, and both are the last one. `sample` gives the
    examples written to samples.jsonl at each evaluation. A resumed run skips the batches that it
    has consumed.
    """
    kept, guard = Kept(), Guard(args, schedule)
    checkpoints.register(LOG, log.state_dict)
    checkpoints.restore_and_register("schedule", schedule)
    checkpoints.restore_and_register("kept", kept)
    checkpoints.restore_and_register("guard", guard)
    if not checkpoints.is_in_place:
        kept.best = float("inf")  # the best model is in the other folder
    batches = itertools.islice(iterate_epochs(trainer), schedule.step + guard.skipped, None)
    with checkpoints.save_on_stop(lambda: schedule.step):
        while True:
            if kept.is_eval_due and evaluate is not None:
                with explain_out_of_memory("evaluate", args):
                    metrics = evaluate()
                checkpoints.record_evaluation(metrics)
                with stopping.delay_stop():
                    _keep_if_best(args, schedule, log, kept, metrics, sample, save)
            checkpoints.save_if_due(schedule.step)
            if schedule.is_done:
                break
            batch, ends_epoch = next(batches)
            is_made = _make_step(args, world, trainer, guard, schedule, log, batch)
            every = args.eval_every
            is_due = is_made and schedule.step % every == 0 if every else ends_epoch
            kept.is_eval_due = is_due or schedule.is_done
    save(Path(args.output_dir) / "last")
    if kept.best == float("inf"):
        save(Path(args.output_dir))
        log.log_samples(schedule.step, sample())


def _make_step(
    args: Args,
    world: World,
    trainer: Trainer,
    guard: Guard,
    schedule: Schedule,
    log: MetricLogger,
    batch: Any,
) -> bool:
    """Make and log one optimizer step. Returns False if the guard skipped it."""
    number = schedule.step + 1
    # Dropout is seeded by step, so that a resumed run draws the same masks.
    torch.manual_seed(hash_key(args.seed, number, world.rank) >> 1)
    with profile_step(args, world, number), explain_out_of_memory("train", args):
        metrics = guard.step(f"step {number}", partial(trainer.step, batch))
    log.log(number, {**(metrics or {}), **guard.metrics})
    return metrics is not None


def _keep_if_best(
    args: Args,
    schedule: Schedule,
    log: MetricLogger,
    kept: Kept,
    metrics: Metrics,
    sample: Sampler,
    save: Callable[[Path], None],
) -> None:
    """Log an evaluation, and publish the model if it is the best so far.

    Raises `GuardStop` if the loss is not finite: such a model cannot be ranked.
    """
    log.log(schedule.step, metrics, always_show=True)
    loss = metrics["loss/eval"]
    if not math.isfinite(loss):
        raise GuardStop(
            f"after step {schedule.step} the loss of the held-out data is {loss}: "
            "lower the learning rate, or look at the held-out rows; the model is not saved, and "
            "the best one before it stays"
        )
    log.log_samples(schedule.step, sample())
    if loss < kept.best:
        kept.best = loss
        save(Path(args.output_dir))
    kept.is_eval_due = False


def iterate_epochs(trainer: Trainer) -> Iterator[tuple[Any, bool]]:
    """Yield the batches of epoch 0, 1, 2, ... without end, each with "is the last of its epoch"."""
    for epoch in itertools.count():
        batches = trainer.batches(epoch)
        for index, batch in enumerate(batches):
            yield batch, index == len(batches) - 1
