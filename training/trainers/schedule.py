"""How far a run has come, and the learning rate that goes with it."""

import time
from collections.abc import Mapping

from training.arguments.common import CommonArgs
from training.runtime.distributed import World
from training.runtime.optim import step_lr_scale


class Schedule:
    """Counts optimizer steps, and training seconds where a run is bounded by them.

    With `max_seconds` the schedule still runs to its end: progress is the larger of the two
    shares, so that a slow machine makes fewer steps, not an unfinished decay. Rank 0's clock
    decides for all.
    """

    def __init__(
        self, args: CommonArgs, world: World, *, total_steps: int, max_seconds: float = 0.0
    ) -> None:
        self._args = args
        self._world = world
        self._max_seconds = max_seconds
        self._seconds = 0.0
        self._last_step_seconds = 0.0
        self._started = time.monotonic()
        self.total_steps = total_steps
        self.step = 0

    @property
    def is_done(self) -> bool:
        return self._progress(0) >= 1.0

    def start_step(self) -> float:
        """Call before each step's work; the scale of its learning rate."""
        self._started = time.monotonic()
        scale = step_lr_scale(self._args, self._progress(0), min(self._progress(1), 1.0))
        self.step += 1
        return scale

    def end_step(self) -> None:
        """Call after each step's work; time outside (evaluation, saving) is not counted."""
        if self._max_seconds:
            spent: float = self._world.from_main(time.monotonic() - self._started)
            self._last_step_seconds = spent
            self._seconds += spent

    def progress(self) -> dict[str, float]:
        """What `restore` needs to go on from here."""
        return {
            "step": self.step,
            "seconds": self._seconds,
            "last_step_seconds": self._last_step_seconds,
        }

    def restore(self, progress: Mapping[str, float] | None) -> None:
        """Go on from a checkpoint's `progress`; None changes nothing."""
        if progress is not None:
            self.step = int(progress["step"])
            self._seconds = progress["seconds"]
            self._last_step_seconds = progress["last_step_seconds"]

    def _progress(self, steps_ahead: int) -> float:
        done = (self.step + steps_ahead) / self.total_steps
        if not self._max_seconds:
            return done
        seconds = self._seconds + steps_ahead * self._last_step_seconds
        return max(done, seconds / self._max_seconds)
