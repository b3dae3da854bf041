"""What both sides of a training benchmark are set up with."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.arguments import BenchmarkArgs, TrainingBenchmarkArgs
from benchmarks.models import model_shape, write_models
from training.arguments.parsing import require
from training.estimates.roofline import ADAM_BYTES, TRAINING, Machine

LEARNING_RATE = 1e-6


class OurSide:
    """A stage's process group and models on disk, kept for as long as this object is."""

    def __init__(self, args: BenchmarkArgs, positions: int) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.lm, self.reward_model = write_models(args.size, positions, self.folder)

    def join(self, settings: Any) -> Any:
        """The one rank's `World`."""
        from training.runtime import distributed

        return self._stack.enter_context(distributed.join_ranks(settings))

    def common(self, args: TrainingBenchmarkArgs) -> dict[str, Any]:
        """Flags that any stage gets."""
        return {
            "output_dir": str(self.folder / "out"),
            "zero_stage": 0,
            "dtype": args.dtype,
            "micro_batch_tokens": args.micro_batch_tokens,
            "weight_decay": 0.0,
        }


def trl_common() -> dict[str, Any]:
    """Settings of any TRL trainer: nothing in the timing but the training."""
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


def peer_dtype(args: BenchmarkArgs) -> Any:
    import torch

    return torch.bfloat16 if args.peer_dtype == "bf16" else torch.float32


def training_seconds(
    size: str, machine: Machine, lengths: list[int], *, targets: int, steps: int
) -> float:
    """The roofline's time of optimizer steps: forward and backward of real tokens, then AdamW."""
    shape = model_shape(size)
    flops = TRAINING * shape.count_forward_flops(lengths, targets)
    adam = steps * ADAM_BYTES * shape.active_parameters
    return machine.seconds(flops=flops) + machine.seconds(bytes_read=adam)


def our_dtype(args: BenchmarkArgs) -> Any:
    """What our matrix products run in on this machine."""
    import torch

    from training.runtime.engine import compute_dtype

    return compute_dtype(args.dtype, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def require_ragged(prompt: int, shortest: int, longest: int) -> None:
    """The flags of ragged data fit together."""
    require(
        prompt < shortest <= longest,
        "--prompt must be below --shortest, and that at most --answer; got "
        f"{prompt}, {shortest}, {longest}",
    )
