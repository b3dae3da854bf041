"""When a run is saved, and what it is given back: its engines and the parts of its loop."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from training.arguments.common import CommonArgs
from training.arguments.parsing import GuardStop, UserError
from training.launching import stopping
from training.launching.stopping import StopRequested
from training.runtime.checkpoint_store import CheckpointStore
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.runtime.engine_state import collect_engine_state, load_engine_state
from training.runtime.fingerprint import compute_input_fingerprints
from training.runtime.publish import mark_stopped
from training.runtime.resume import STATE_FILE, Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Tensors = dict[str, "Tensor"]


class Stateful(Protocol):
    """Something of a run's loop that the next step depends on."""

    def state_dict(self) -> dict[str, Any]:
        """What it has come to, as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class CheckpointSaver:
    """Saves a run by steps and by minutes; a save that fails is said and the run goes on.

    What is saved is copied on the host at once; a thread writes it while the run goes on.
    """

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
        self._store = CheckpointStore(
            args.output_dir,
            keep=args.keep_checkpoints,
            keep_best=args.keep_best,
            metric=args.best_metric,
        )
        self._saved_step = found.step if found is not None and self.is_in_place else None
        self._value: float | None = None  # of the evaluation of this very step
        self._state_dicts: dict[str, Callable[[], dict[str, Any]]] = {}
        self._tensors: dict[str, Callable[[], Tensors]] = {}
        self._last_saved = time.monotonic()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[bool] | None = None  # on rank 0 alone
        # Before the run: it may well end in the folder that it read.
        self._inputs = compute_input_fingerprints(args) if world.is_main else {}

    @property
    def is_new(self) -> bool:
        """Whether the run starts anew."""
        return self._found is None

    @property
    def is_in_place(self) -> bool:
        """Whether what the run has published so far lies in this output_dir."""
        return self._found is None or self._found.is_in(self._args.output_dir)

    def restore_engines(self) -> None:
        """Give the engines back what they were; every rank reads the folder."""
        for name, engine in self._engines.items() if self._found else ():
            try:
                load_engine_state(engine, self._load(name))
            except ValueError as error:
                raise UserError(
                    f"{self._found}: {name}: {error}; pass --resume none to start anew"
                ) from error

    def register(self, name: str, state_dict: Callable[[], dict[str, Any]]) -> None:
        """Save from now on what `progress` gives; who made it has been restored already."""
        self._state_dicts[name] = state_dict

    def restore_and_register(self, name: str, part: Stateful) -> None:
        """Give a part back what it was, and save it from now on."""
        self.register(name, part.state_dict)
        if self._found is not None:
            part.load_state_dict(self._found.progress[name])

    def restore_and_register_tensors(
        self, name: str, tensors: Callable[[], Tensors], restore: Callable[[Tensors], None]
    ) -> None:
        """The same of what JSON cannot hold; an empty dict is not saved, nor restored."""
        self._tensors[name] = tensors
        if self._found is not None and (found := self._load(name)):
            restore(found)

    @contextmanager
    def save_on_stop(self, step: Callable[[], int]) -> Iterator[None]:
        """Inside, a signal to any rank stops all at their next `check_stop`; then they are saved.

        `step` says how many steps are done by then. Where one that was begun is given up, the
        tracked parts are still as they were before it.
        """
        self._world.barrier()  # a rank that still loads would end at a signal, not stop with all
        try:
            with stopping.enter_training():
                yield
        except StopRequested as stop:
            stop.is_saved = self.save(step())
            if stop.is_saved:
                mark_stopped(self._args.output_dir, self._world)
                again = "--resume auto" if self._args.resume == "none" else "the same command"
                logger.info(
                    "stopped by %s after step %d, and saved; %s goes on from there",
                    stopping.reason(),
                    step(),
                    again,
                )
            raise
        except GuardStop as stop:
            if stop.weights_are_finite:
                self.save(step())
            raise
        finally:
            self._written()

    def record_evaluation(self, metrics: Mapping[str, float]) -> None:
        """What an evaluation of the model as it is now says, for --keep_best."""
        name = self._args.best_metric
        value = metrics.get(name.removeprefix("+"))
        if value is not None and math.isfinite(value):
            self._value = -value if name.startswith("+") else value
        elif self._args.keep_best and self._world.is_main:
            logger.warning("--best_metric %s is not among %s", name, ", ".join(sorted(metrics)))

    def save_if_due(self, step: int) -> None:
        """Call before each step and after the last, on every rank."""
        if self._world.broadcast(self._is_due(step)):  # rank 0 decides for all
            self._begin(step)
        self._value = None

    def save(self, step: int) -> bool:
        """Write a checkpoint of everything that the next step depends on; whether it is there."""
        self._begin(step)
        agreed: bool = self._world.broadcast(self._written())
        return agreed

    def _begin(self, step: int) -> None:
        """Copy what a checkpoint is made of, once the one before it is written."""
        self._written()
        states = {
            name: collect_engine_state(engine, self._world)
            for name, engine in self._engines.items()
        }
        if self._world.is_main:
            states |= {name: tensors() for name, tensors in self._tensors.items()}
            state = {
                "step": step,
                "progress": {name: progress() for name, progress in self._state_dicts.items()},
                "settings": asdict(self._args),
                "world_size": self._world.size,
                "inputs": self._inputs,
                "origin": self._found.origin if self._found else "",
            }
            text = json.dumps(state, indent=1) + "\n"
            self._writing = self._writer.submit(self._write, step, text, states, self._value)
        self._saved_step = step
        self._last_saved = time.monotonic()

    def _written(self) -> bool:
        """Wait for the writing of the latest checkpoint; whether it is there."""
        writing, self._writing = self._writing, None
        return writing is None or writing.result()

    def _write(
        self, step: int, state: str, states: Mapping[str, Tensors], value: float | None
    ) -> bool:
        def write(folder: Path) -> None:
            for name, tensors in states.items():
                if tensors:
                    _save_tensors(tensors, folder / f"{name}.safetensors")
            (folder / STATE_FILE).write_text(state, encoding="utf-8")

        try:
            self._store.save(step, write, value)
        except OSError as error:
            logger.error(
                "checkpoint of step %d not saved: %s; the run goes on, and the checkpoint "
                "before it is kept", step, error,
            )  # fmt: skip
            return False
        return True

    def _load(self, name: str) -> Tensors:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        assert self._found is not None
        file = self._found.folder / f"{name}.safetensors"
        try:
            return load_file(file) if file.is_file() else {}
        except SafetensorError as error:
            raise UserError(f"{file}: {error}; pass --resume none to start anew") from error

    def _is_due(self, step: int) -> bool:
        """Whether to save here; a judge's value is known to rank 0 alone."""
        every, minutes = self._args.save_every, self._args.save_minutes
        if step == self._saved_step and self._value is None:
            return False  # it is there already
        if every and step and step % every == 0:
            return True
        if minutes > 0 and time.monotonic() - self._last_saved >= 60.0 * minutes:
            return True
        if self._value is None:
            return False
        self._written()  # it may be the best so far
        return self._store.is_among_best(self._value)


def _save_tensors(tensors: Tensors, file: Path) -> None:
    """Raises `OSError` on a full disk, for which safetensors has an error of its own."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, file)
    except SafetensorError as error:
        raise OSError(f"{file.name}: {error}") from error
