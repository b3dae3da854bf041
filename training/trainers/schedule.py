"""Progress of a run, and its learning rate."""

import math
import time
from collections.abc import Mapping
from typing import Any, Literal

from training.arguments.common import CommonArgs
from training.runtime.distributed import World

WARM_UP_STEPS = 10  # slower than later ones, so ignored when estimating the pace


class Schedule:
    """Counts optimizer steps, and training seconds where a run is bounded by them.

    Progress is the share of steps done, so runs of one seed are equal. If the steps do not fit in
    --max_seconds at the pace so far, progress follows the clock from there on: a slow machine makes
    fewer steps, and still ends its decay. Rank 0's clock decides for all.
    """

    def __init__(
        self, args: CommonArgs, world: World, *, total_steps: int, max_seconds: float = 0.0
    ) -> None:
        self._args = args
        self._world = world
        self._max_seconds = max_seconds
        self._seconds = 0.0
        self._warm_up_seconds = 0.0
        self._last_step_seconds = 0.0
        # Progress and seconds at the moment when the clock took over.
        self._bound: tuple[float, float] | None = None
        self._started = time.monotonic()
        self.total_steps = total_steps
        self.step = 0

    @property
    def is_done(self) -> bool:
        return self._compute_progress(0) >= 1.0

    def start_step(self) -> float:
        """Call before each step; returns the scale of its learning rate."""
        self._started = time.monotonic()
        return compute_step_lr_scale(
            self._args, self._compute_progress(0), min(self._compute_progress(1), 1.0)
        )

    def end_step(self) -> None:
        """Call after each step's work; time outside (evaluation, saving) is not counted.

        A step without a matching end_step() is not counted.
        """
        self.step += 1
        self.skip_step()

    def skip_step(self) -> None:
        """Call instead of `end_step` if the step was skipped: only its time counts."""
        if self._max_seconds:
            spent: float = self._world.broadcast(time.monotonic() - self._started)
            self.note_seconds(spent)

    def note_seconds(self, spent: float) -> None:
        """Add the seconds of the step that has just ended."""
        self._last_step_seconds = spent
        self._seconds += spent
        if self.step <= self._warm_up_steps:
            self._warm_up_seconds = self._seconds
        if self._bound is None and self._project_seconds() > self._max_seconds:
            self._bound = self.step / self.total_steps, self._seconds

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` takes."""
        return {
            "step": self.step,
            "seconds": self._seconds,
            "warm_up_seconds": self._warm_up_seconds,
            "last_step_seconds": self._last_step_seconds,
            "bound": self._bound,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.step = state["step"]
        self._seconds = state["seconds"]
        self._warm_up_seconds = state["warm_up_seconds"]
        self._last_step_seconds = state["last_step_seconds"]
        self._bound = tuple(state["bound"]) if state["bound"] else None

    @property
    def _warm_up_steps(self) -> int:
        return min(WARM_UP_STEPS, self.total_steps // 4)

    def _project_seconds(self) -> float:
        """Project the seconds of all steps from the pace since the warm-up."""
        steps = self.step - self._warm_up_steps
        if steps < 1:
            return self._seconds
        pace = (self._seconds - self._warm_up_seconds) / steps
        return self._seconds + pace * (self.total_steps - self.step)

    def _compute_progress(self, steps_ahead: int) -> float:
        done = (self.step + steps_ahead) / self.total_steps
        if self._bound is None:
            return done
        share, since = self._bound
        if since >= self._max_seconds:
            return 1.0
        seconds = self._seconds + steps_ahead * self._last_step_seconds
        by_clock = share + (1 - share) * (seconds - since) / (self._max_seconds - since)
        return max(done, by_clock)


def lr_scale(
    progress: float,
    *,
    scheduler: Literal["cosine", "linear", "constant"],
    warmup_ratio: float,
    min_lr_ratio: float,
) -> float:
    """Learning rate as a share of its peak at `progress` in [0, 1], the share of steps done.

    Rises linearly over `warmup_ratio`, then decays to `min_lr_ratio`.
    """
    if progress < warmup_ratio:
        return progress / warmup_ratio
    if scheduler == "constant" or warmup_ratio >= 1.0:
        return 1.0
    done = min((progress - warmup_ratio) / (1.0 - warmup_ratio), 1.0)
    shape = 1.0 - done if scheduler == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return min_lr_ratio + (1.0 - min_lr_ratio) * shape


def compute_step_lr_scale(args: CommonArgs, progress: float, next_progress: float) -> float:
    """Scale of the step from `progress` to `next_progress`, read half-way between them.

    So neither the first step (scale 0 in a warm-up) nor the last is wasted.
    """
    return lr_scale(
        (progress + next_progress) / 2.0,
        scheduler=args.lr_scheduler,
        warmup_ratio=args.warmup_ratio,
        min_lr_ratio=args.min_lr_ratio,
    )
