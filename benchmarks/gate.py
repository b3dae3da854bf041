"""Runs a library's training loop a few steps at a time, so that it can be timed in turn."""

import threading
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

STEPS = 10**6  # more than a benchmark ever takes
EPOCHS = 10**4


class Gate(TrainerCallback):
    """Holds a `Trainer` at the end of every `steps` optimizer steps until the next `run`."""

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps
        self._taken = 0
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._error: BaseException | None = None

    def start(self, train: Callable[[], Any]) -> None:
        """Begin `train` in a thread of its own; it waits before its first step."""

        def target() -> None:
            try:
                train()
            except BaseException as error:
                self._error = error
            self._done.release()

        threading.Thread(target=target, daemon=True).start()

    def run(self) -> None:
        """Let it take `steps` steps."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._go.acquire()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._taken += 1
        if self._taken % self.steps == 0:
            self._done.release()
            self._go.acquire()


def dataset_of(columns: dict[str, Any]) -> Any:
    """What the library's trainer reads its rows from."""
    from datasets import Dataset

    return Dataset.from_dict(columns)
