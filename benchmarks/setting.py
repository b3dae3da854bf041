"""Set up both sides of a training benchmark."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.arguments import BenchmarkArgs, TrainingBenchmarkArgs
from benchmarks.models import make_shape, write_models
from training.estimates.roofline import ADAM_BYTES, TRAINING, Machine

LEARNING_RATE = 1e-6


class OurSide:
    """A stage's process group, and models on disk that live as long as this object."""

    def __init__(self, args: BenchmarkArgs, positions: int) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.lm, self.reward_model = write_models(args.size, positions, self.folder)

    def join(self, settings: Any) -> Any:
        """Join the process group; returns the rank's `World`."""
        from training.runtime import distributed

        return self._stack.enter_context(distributed.join_ranks(settings))

    def make_common_flags(self, args: TrainingBenchmarkArgs) -> dict[str, Any]:
        """Make the flags that every stage gets."""
        return {
            "output_dir": str(self.folder / "out"),
            "zero_stage": 0,
            "dtype": args.dtype,
            "micro_batch_tokens": args.micro_batch_tokens,
            "weight_decay": 0.0,
        }

    def make_run(self, trainer: Any, amount: float) -> Callable[[], float]:
        """Return a run of one epoch of the stage's trainer, which returns `amount`."""

        def run() -> float:
            for batch in trainer.batches(0):
                trainer.step(batch, 1.0)
            assert self.folder.exists()
            return amount

        return run


def make_trl_settings() -> dict[str, Any]:
    """Make the settings of any TRL trainer, so that training alone is timed."""
    import torch

    is_cuda = torch.cuda.is_available()
    return {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": not is_cuda,
        "bf16": is_cuda,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "learning_rate": LEARNING_RATE,
    }


def choose_peer_dtype(args: BenchmarkArgs) -> Any:
    import torch

    return torch.bfloat16 if args.peer_dtype == "bf16" else torch.float32


def estimate_training_seconds(
    size: str, machine: Machine, lengths: list[int], *, targets: int, steps: int
) -> float:
    """Estimate the roofline's time of optimizer steps: forward, backward and AdamW."""
    shape = make_shape(size)
    flops = TRAINING * shape.count_forward_flops(lengths, targets)
    adam = steps * ADAM_BYTES * shape.active_parameters
    return machine.seconds(flops=flops) + machine.seconds(bytes_read=adam)


def choose_dtype(args: BenchmarkArgs) -> Any:
    """Choose the data type of our matrix products on this machine."""
    import torch

    from training.runtime.engine import compute_dtype

    return compute_dtype(args.dtype, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
