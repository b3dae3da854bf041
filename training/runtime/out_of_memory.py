"""Out-of-memory errors that name the phase and the flags that reduce its memory."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from training.arguments.parsing import UserError

Phase = Literal["load", "generate", "score", "train", "evaluate", "run"]

# What a phase does, and the flags that bound its memory, the cheapest to lower first.
PHASES: dict[Phase, tuple[str, tuple[str, ...]]] = {
    "load": ("loading the models", ()),
    "generate": ("generating responses", ("generation_batch_size", "max_new_tokens")),
    "score": ("reading the responses with the models", ("micro_batch_tokens",)),
    "train": ("training", ("micro_batch_tokens",)),
    "evaluate": ("evaluating", ("micro_batch_tokens",)),
    "run": ("running", ("micro_batch_tokens", "generation_batch_size", "max_new_tokens")),
}
# Messages of libraries that have no error class for it.
MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    "CUDA error: out of memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class OutOfMemoryError(UserError):
    """Out of memory; the message names flags to change."""


@contextmanager
def explain_out_of_memory(phase: Phase, args: Any) -> Iterator[None]:
    """Inside, out-of-memory errors become a `UserError` that names `phase` and flags of `args`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        flags = suggest_flags(phase, args, ranks=ranks, on_gpu=torch.cuda.is_available())
        raise OutOfMemoryError(f"out of memory while {PHASES[phase][0]}: {flags}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """True if an error, or a cause of it, is a lack of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if any(words in str(error) for words in MESSAGES):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def suggest_flags(phase: Phase, args: Any, *, ranks: int, on_gpu: bool) -> str:
    """List changes of flags, the cheapest first, for the args of any program."""
    lower = [
        f"--{name} (now {getattr(args, name)})" for name in PHASES[phase][1] if hasattr(args, name)
    ]
    changes = [f"lower {' or '.join(lower)}"] if lower else []
    trains = hasattr(args, "gradient_checkpointing")
    if trains and phase in ("train", "run") and not args.gradient_checkpointing:
        changes.append("set --gradient_checkpointing true")
    if phase in ("load", "train", "run"):
        if getattr(args, "critic", "") == "separate":
            changes.append("set --critic shared")
        if trains and not args.lora_rank:
            changes.append("set --lora_rank 16")
        if trains and args.zero_stage < 3:
            changes.append("set --zero_stage 3" + ("" if ranks > 1 else " on more processes"))
        if trains and on_gpu and args.zero_stage >= 2 and not args.offload_optimizer:
            changes.append("set --offload_optimizer true")
        elif trains and on_gpu and args.zero_stage == 3 and not args.offload_param:
            changes.append("set --offload_param true")
    return ", or ".join([*changes, "use a smaller model" if phase == "load" else "free memory"])
