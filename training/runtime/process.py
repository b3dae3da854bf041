"""Set up one process: device, threads, memory, logging, and exit on errors of the user."""

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch

from training.arguments.common import ModelArgs
from training.arguments.parsing import GUARD_STOP, GuardStop, UserError, exit_with_user_error
from training.launching.processes import count_cores
from training.runtime.out_of_memory import explain_out_of_memory

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # <malloc.h>


@contextmanager
def run_tool(args: ModelArgs) -> Iterator[torch.device]:
    """Run a tool: one process without DeepSpeed that logs to stderr and prints to stdout.

    If the reader of its output has exited (`... | head`), it ends without a traceback.
    """
    set_logging(logging.INFO, sys.stderr)
    torch.manual_seed(args.seed)
    try:
        with exit_on_user_error(), explain_out_of_memory("run", args):
            yield pick_device(0)
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Inside, a `UserError` ends the program with one line and exit status 2, a `GuardStop` 3."""
    try:
        yield
    except UserError as error:
        exit_with_user_error(Path(sys.argv[0]).name, str(error))
    except GuardStop as stop:
        exit_with_user_error(Path(sys.argv[0]).name, str(stop), status=GUARD_STOP)


def pick_device(local_rank: int) -> torch.device:
    """Select this process's GPU, else the CPU with its share of the cores."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    keep_freed_memory()
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    is_torchrun_default = threads == "1" and local_size > 1 and "TORCHELASTIC_RUN_ID" in os.environ
    if not threads or is_torchrun_default:
        # deepspeed leaves all cores to every rank; torchrun sets one if there are several ranks.
        torch.set_num_threads(max(count_cores() // max(local_size, 1), 1))
    return torch.device("cpu")


def set_logging(level: int, stream: TextIO) -> None:
    """Log plain lines to `stream`; from libraries only errors."""
    logging.basicConfig(level=level, format="%(message)s", stream=stream, force=True)
    for name in ("DeepSpeed", "deepspeed", "transformers", "datasets", "filelock", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", category=FutureWarning)


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors (GNU's C library only).

    By default each large tensor is mapped and unmapped, and the first touch of its pages takes
    longer than filling them: the update of a PPO step of GPT-2 small took 9.6 s so, and 7.9 s with
    this (two cores). Until it ends, the process returns no memory to the system.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return  # another C library
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
    mallopt(M_TOP_PAD, 64 * 2**20)
