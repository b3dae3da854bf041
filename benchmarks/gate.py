"""Run a library's training loop a few steps at a time, to time it in turn with ours."""

import threading
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from benchmarks.arguments import BenchmarkArgs

STEPS = 10**6  # more than a benchmark ever takes
EPOCHS = 10**4


class Gate(TrainerCallback):
    """Holds a `Trainer` at the end of every `steps` optimizer steps until the next `run`."""

    def __init__(self) -> None:
        self.steps = 1
        self._taken = 0
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._error: BaseException | None = None

    def start(self, train: Callable[[], Any]) -> None:
        """Start `train` in a thread; it waits before its first step."""

        def target() -> None:
            try:
                train()
            except BaseException as error:
                self._error = error
            self._done.release()

        threading.Thread(target=target, daemon=True).start()

    def run(self) -> None:
        """Let the trainer run `steps` steps."""
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


def gate_trainer(
    make: Callable[[Gate], Any], amount: float, *, steps: int | None = 1
) -> Callable[[], float]:
    """Start a library's trainer and return a run of it, which returns `amount`.

    `steps` are the optimizer steps of a run; None: an epoch.
    """
    gate = Gate()
    trainer = make(gate)
    gate.steps = len(trainer.get_train_dataloader()) if steps is None else steps
    gate.start(trainer.train)

    def run() -> float:
        gate.run()
        return amount

    return run


def make_epoch_settings(args: BenchmarkArgs) -> dict[str, Any]:
    """Make the settings of a TRL trainer that runs over the same rows epoch after epoch."""
    return {
        "per_device_train_batch_size": args.batch,
        "num_train_epochs": EPOCHS,
        "max_length": args.answer,
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def make_dataset(columns: dict[str, Any]) -> Any:
    """Make the dataset that the library's trainer reads."""
    from datasets import Dataset

    return Dataset.from_dict(columns)
