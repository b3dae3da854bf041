"""When a run is saved, and what it is given back: its engines and its loop's own progress."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.runtime.checkpoint_store import CheckpointStore
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.runtime.engine_state import engine_state, load_engine_state
from training.runtime.resume import STATE_FILE, Checkpoint

logger = logging.getLogger(__name__)


class Checkpoints:
    """Saves a run by steps and by minutes; a save that fails is said and the run goes on."""

    def __init__(
        self,
        args: CommonArgs,
        world: World,
        engines: Mapping[str, TrainingEngine],
        found: Checkpoint | None,
    ) -> None:
        self._args = args
        self._world = world
        self._engines = engines
        self._found = found
        self._store = CheckpointStore(args.output_dir, keep=args.keep_checkpoints)
        self._last_saved = time.monotonic()

    @property
    def progress(self) -> Mapping[str, Any]:
        """What the loop saved of itself; empty where the run starts anew."""
        return self._found.progress if self._found else {}

    @property
    def step(self) -> int:
        """The last step that is done, 0 where the run starts anew."""
        return self._found.step if self._found else 0

    @property
    def is_in_place(self) -> bool:
        """Whether what the run has published so far lies in this output_dir."""
        here = Path(self._args.output_dir).resolve()
        return self._found is not None and self._found.output_dir.resolve() == here

    def restore(self) -> None:
        """Give the engines back what they were."""
        if self._found is None:
            return
        from safetensors.torch import load_file

        for name, engine in self._engines.items():
            file = self._found.folder / f"{name}.safetensors"
            try:
                load_engine_state(engine, load_file(file))
            except ValueError as error:
                raise UserError(f"{file}: {error}; pass --resume none to start anew") from error

    def save_if_due(self, step: int, progress: Callable[[], dict[str, Any]]) -> None:
        """Call after each step's work, on every rank."""
        if self._is_due(step):
            self.save(step, progress())

    def save(self, step: int, progress: Mapping[str, Any]) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        from safetensors.torch import save_file

        states = {name: engine_state(engine, self._world) for name, engine in self._engines.items()}
        if self._world.is_main:
            state = {
                "step": step,
                "progress": dict(progress),
                "settings": asdict(self._args),
                "world_size": self._world.size,
            }

            def write(folder: Path) -> None:
                for name, tensors in states.items():
                    save_file(tensors, folder / f"{name}.safetensors")
                text = json.dumps(state, indent=1) + "\n"
                (folder / STATE_FILE).write_text(text, encoding="utf-8")

            try:
                self._store.save(step, write)
            except OSError as error:
                logger.error(
                    "checkpoint of step %d not saved: %s; the run goes on, and the checkpoint "
                    "before it is kept", step, error,
                )  # fmt: skip
        self._last_saved = time.monotonic()
        self._world.barrier()

    def _is_due(self, step: int) -> bool:
        every, minutes = self._args.save_every, self._args.save_minutes
        if every and step % every == 0:
            return True
        is_late = minutes > 0 and time.monotonic() - self._last_saved >= 60.0 * minutes
        decision: bool = self._world.from_main(is_late)  # rank 0's clock counts for all
        return decision
