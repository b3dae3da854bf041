"""Skip optimizer steps whose numbers are not finite, name the fault, and continue.

Every decision is made from sums and norms that all ranks share, so that all of them step or none.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from training.arguments.common import CommonArgs
from training.arguments.parsing import GuardStop
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.runtime.gradients import find_bad_weights
from training.trainers.schedule import Schedule

logger = logging.getLogger(__name__)

T = TypeVar("T")
NAMED = 8  # rows or parameters that a message names; the others are counted


class TooManySkips(GuardStop):
    """--max_skipped_steps are used up, or a weight is lost: the state is that of the last step.

    `weights_are_finite` says whether that state is worth saving.
    """

    def __init__(self, message: str, *, weights_are_finite: bool) -> None:
        super().__init__(message)
        self.weights_are_finite = weights_are_finite


@dataclass(frozen=True)
class Fault:
    """The first tensor that is not finite, where it was read, and whether it is a weight."""

    tensor: str
    rows: Sequence[str] = ()
    is_weight: bool = False

    def __str__(self) -> str:
        rows = [f"of {_shorten(self.rows)}"] if self.rows else []
        return " ".join([self.tensor, *rows, "is not finite"])


class SkipStep(Exception):  # noqa: N818 (control flow, not an error)
    """Raised on every rank in place of an optimizer step, when its gradients are dropped."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Readings:
    """Outputs of the micro-batches of one optimizer step, to find one that is not finite."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, Tensor, Callable[[], Sequence[str]]]] = []

    def add(self, name: str, values: Tensor, rows: Callable[[], Sequence[str]]) -> None:
        """Add outputs [N] called `name`; `rows` names the data row of each."""
        self._parts.append((name, values.detach(), rows))

    def fault(self, world: World) -> Fault | None:
        """Find the earliest non-finite output on any rank; all ranks call this."""
        own: dict[str, list[str]] = {}
        for name, values, rows in self._parts:
            bad = (~torch.isfinite(values)).tolist()
            if any(bad):
                named = [row for row, is_bad in zip(rows(), bad, strict=True) if is_bad]
                own.setdefault(name, []).extend(named)
        read = list(dict.fromkeys(name for name, _, _ in self._parts))
        orders, found = zip(*world.gather((read, own)), strict=True)
        # All ranks read the same things in the same order; one without rows reads nothing.
        for name in max(orders, key=len):
            bad_rows = {row for part in found for row in part.get(name, ())}
            if bad_rows:
                return Fault(name, sorted(bad_rows))
        return None


class Guard:
    """Counts consecutive skipped steps, and stops the run when there are too many."""

    def __init__(self, args: CommonArgs, schedule: Schedule) -> None:
        self._limit = args.max_skipped_steps
        self._schedule = schedule
        self.skipped = 0
        self.in_a_row = 0

    def step(self, name: str, work: Callable[[float], T]) -> T | None:
        """Run `work(lr_scale)`, an optimizer step; returns None if it was skipped.

        The schedule does not count a skipped step: the next one has its learning rate.
        """
        try:
            result = work(self._schedule.start_step())
        except SkipStep as skip:
            self._schedule.skip_step()
            self.skip(name, skip.fault)
            return None
        self._schedule.end_step()
        self.in_a_row = 0
        return result

    def skip(self, name: str, fault: Fault) -> None:
        """Log the fault; raises `TooManySkips` above --max_skipped_steps."""
        if fault.is_weight:
            raise TooManySkips(
                f"{name}: {fault}; no later step can repair it", weights_are_finite=False
            )
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row > self._limit:
            raise TooManySkips(
                f"{name}: {fault}; {self.in_a_row} optimizer steps in a row were left out, more "
                f"than --max_skipped_steps {self._limit}: lower the learning rate, or look at the "
                "rows",
                weights_are_finite=True,
            )
        logger.info(
            "warning: %s: %s; no optimizer step is made (%d in a row of at most %d)",
            name, fault, self.in_a_row, self._limit,
        )  # fmt: skip

    def state_dict(self) -> dict[str, int]:
        """Return the state that `load_state_dict` takes."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what `state_dict` returned; skipped steps consumed batches too."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    @property
    def metrics(self) -> dict[str, float]:
        """Number of skipped optimizer steps so far; empty if there are none."""
        return {"guard/skipped_steps": float(self.skipped)} if self.skipped else {}


def step_together(
    engines: Mapping[str, TrainingEngine],
    lr_scale: float,
    *,
    losses: Mapping[str, float],
    readings: Readings,
    world: World,
) -> dict[str, float]:
    """Step all `engines` and return their gradient norms, or raise `SkipStep` and step none.

    `losses` are sums over all ranks, and DeepSpeed's norms are agreed upon as well: nothing more
    is asked of the other ranks while everything is finite.
    """
    norms = {name: engine.compute_gradient_norm() for name, engine in engines.items()}
    if all(map(math.isfinite, (*losses.values(), *norms.values()))):
        for engine in engines.values():
            engine.step(lr_scale)
        return norms
    bad = [f"{name} ({value})" for name, value in losses.items() if not math.isfinite(value)]
    fault = (
        weight_fault({name: engine.module for name, engine in engines.items()}, world)
        or readings.fault(world)
        or (Fault(bad[0]) if bad else _find_gradient_fault(engines))
    )
    for engine in engines.values():
        engine.drop()
    raise SkipStep(fault)


def weight_fault(models: Mapping[str, nn.Module], world: World) -> Fault | None:
    """Find the non-finite weights of the first model that has any; all ranks call this."""
    for name, module in models.items():
        if bad := find_bad_weights(module, world):
            return Fault(f"weight {_shorten(bad)} of the {name}", is_weight=True)
    return None


def _find_gradient_fault(engines: Mapping[str, TrainingEngine]) -> Fault:
    for name, engine in engines.items():
        # Backward runs from the module's end: the last module is the first to go bad.
        if bad := engine.find_bad_gradients()[::-1]:
            return Fault(f"gradient of {_shorten(bad)} of the {name}")
    return Fault("the norm of the gradients, each of them finite,")


def _shorten(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
