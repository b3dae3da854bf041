"""Save checkpoints when they are due, and restore engines and the state of the loop."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.arguments.common import CommonArgs
from training.arguments.parsing import GuardStop, UserError
from training.launching import stopping
from training.launching.stopping import StopRequested
from training.runtime.checkpoint_store import CheckpointStore
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.runtime.engine_state import collect_engine_state, load_engine_state
from training.runtime.publish import mark_stopped
from training.runtime.resume import STATE_FILE, Checkpoint, compute_input_fingerprints

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


class Stateful(Protocol):
    """Part of a run's loop that the next step depends on."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class CheckpointSaver:
    """Saves a run every so many steps or minutes. A save that fails is logged; training continues.

    The state is copied to the host at once; a thread writes it to disk during the next steps.
    """

    def __init__(
        self,
        args: CommonArgs,
        world: World,
        engines: Mapping[str, TrainingEngine],
        checkpoint: Checkpoint | None,
    ) -> None:
        self._args = args
        self._world = world
        self._engines = engines
        self._checkpoint = checkpoint
        self._store = CheckpointStore(
            args.output_dir,
            keep=args.keep_checkpoints,
            keep_best=args.keep_best,
            metric=args.best_metric,
        )
        self._saved_step = checkpoint.step if checkpoint and self.is_in_place else None
        self._value: float | None = None  # of an evaluation at the current step
        self._state_dicts: dict[str, Callable[[], dict[str, Any]]] = {}
        self._tensors: dict[str, Callable[[], Tensors]] = {}
        self._last_saved = time.monotonic()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[bool] | None = None  # on rank 0 only
        # Before the run, which may write to the folder that it read.
        self._inputs = compute_input_fingerprints(args) if world.is_main else {}

    @property
    def is_in_place(self) -> bool:
        """True if this output_dir holds all that the run has published so far."""
        return self._checkpoint is None or self._checkpoint.is_in(self._args.output_dir)

    def restore_engines(self) -> None:
        """Load weights and optimizer state into the engines; every rank reads the checkpoint."""
        if self._checkpoint is None:
            return
        for name, engine in self._engines.items():
            try:
                load_engine_state(engine, self._load(name))
            except ValueError as error:
                folder = self._checkpoint.folder
                raise UserError(
                    f"{folder}: {name}: {error}; pass --resume none to start over"
                ) from error

    def register(self, name: str, state_dict: Callable[[], dict[str, Any]]) -> None:
        """Include `state_dict()` in checkpoints. Its owner restores it."""
        self._state_dicts[name] = state_dict

    def restore_and_register(self, name: str, part: Stateful) -> None:
        """Restore a part of the loop if the run resumes, and include it in checkpoints."""
        self.register(name, part.state_dict)
        if self._checkpoint is not None:
            part.load_state_dict(self._checkpoint.progress[name])

    def restore_and_register_tensors(
        self, name: str, tensors: Callable[[], Tensors], load: Callable[[Tensors], None]
    ) -> None:
        """Do this for tensors. An empty dict is neither saved nor restored."""
        self._tensors[name] = tensors
        if self._checkpoint is not None and (saved := self._load(name)):
            load(saved)

    @contextmanager
    def save_on_stop(self, count_steps: Callable[[], int]) -> Iterator[None]:
        """Inside, a signal to any rank stops all ranks at the next `check_stop`, and saves.

        `count_steps()` returns the finished steps. If a step is abandoned, the registered parts
        must be as they were before it.
        """
        self._world.barrier()  # on a rank that still loads, a signal would end only that rank
        try:
            with stopping.enter_training():
                yield
        except StopRequested as stop:
            stop.is_saved = self.save(count_steps())
            if stop.is_saved:
                mark_stopped(self._args.output_dir, self._world)
                again = "--resume auto" if self._args.resume == "none" else "the same command"
                logger.info(
                    "stopped by %s after step %d, and saved; %s resumes from there",
                    stopping.name_signal(),
                    count_steps(),
                    again,
                )
            raise
        except GuardStop as stop:
            if stop.weights_are_finite:
                self.save(count_steps())
            raise
        finally:
            self._wait_for_writer()

    def record_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Take --best_metric from an evaluation of the current model, for --keep_best."""
        name = self._args.best_metric
        value = metrics.get(name.removeprefix("+"))
        if value is not None and math.isfinite(value):
            self._value = -value if name.startswith("+") else value
        elif self._args.keep_best and self._world.is_main:
            logger.warning("--best_metric %s is not among %s", name, ", ".join(sorted(metrics)))

    def save_if_due(self, step: int, *, always: bool = False) -> None:
        """Save by --save_every and --save_minutes. All ranks call it between steps."""
        if self._world.broadcast(self._is_due(step, always=always)):
            self._begin_save(step)
        self._value = None

    def save(self, step: int) -> bool:
        """Save now and wait until it is written. Return whether that succeeded."""
        self._begin_save(step)
        is_saved: bool = self._world.broadcast(self._wait_for_writer())
        return is_saved

    def _begin_save(self, step: int) -> None:
        """Copy the state, and let the thread write it after the previous checkpoint."""
        self._wait_for_writer()
        tensors = {
            name: collect_engine_state(engine, self._world)
            for name, engine in self._engines.items()
        }
        if self._world.is_main:
            tensors |= {name: collect() for name, collect in self._tensors.items()}
            state = {
                "step": step,
                "progress": {name: state_dict() for name, state_dict in self._state_dicts.items()},
                "settings": asdict(self._args),
                "world_size": self._world.size,
                "inputs": self._inputs,
                "origin": self._checkpoint.origin if self._checkpoint else "",
            }
            text = json.dumps(state, indent=1) + "\n"
            self._writing = self._writer.submit(self._write, step, text, tensors, self._value)
        self._saved_step = step
        self._last_saved = time.monotonic()

    def _wait_for_writer(self) -> bool:
        """Wait for the latest checkpoint. Return False if it could not be written."""
        writing, self._writing = self._writing, None
        return writing is None or writing.result()

    def _write(
        self, step: int, state: str, tensors: Mapping[str, Tensors], value: float | None
    ) -> bool:
        def write(folder: Path) -> None:
            for name, named in tensors.items():
                file = folder / f"{name}.safetensors"
                try:
                    if named:
                        save_file(named, file)
                except SafetensorError as error:  # a full disk, like any other file's
                    raise OSError(f"{file.name}: {error}") from error
            (folder / STATE_FILE).write_text(state, encoding="utf-8")

        try:
            self._store.save(step, write, value)
        except OSError as error:
            logger.error(
                "checkpoint of step %d not saved: %s; the run continues, and the checkpoint "
                "before it is kept", step, error,
            )  # fmt: skip
            return False
        return True

    def _load(self, name: str) -> Tensors:
        assert self._checkpoint is not None
        file = self._checkpoint.folder / f"{name}.safetensors"
        try:
            return load_file(file) if file.is_file() else {}
        except SafetensorError as error:
            raise UserError(f"{file}: {error}; pass --resume none to start over") from error

    def _is_due(self, step: int, *, always: bool) -> bool:
        """Decide on rank 0: it alone knows the value of a judge."""
        every, minutes = self._args.save_every, self._args.save_minutes
        if step == self._saved_step and self._value is None:
            return False  # saved already
        if always or (every and step and step % every == 0):
            return True
        if minutes > 0 and time.monotonic() - self._last_saved >= 60.0 * minutes:
            return True
        if self._value is None:
            return False
        self._wait_for_writer()  # its checkpoint may be the best so far
        return self._store.is_among_best(self._value)
