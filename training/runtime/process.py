"""One process and its surroundings: device, threads, logging, and an orderly end."""

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
from training.runtime.memory import keep_freed_memory
from training.runtime.out_of_memory import explain_out_of_memory


@contextmanager
def run_tool(args: ModelArgs) -> Iterator[torch.device]:
    """The life of a tool: one process without DeepSpeed, its log on stderr, its result on stdout.

    When the reader of its output has gone (`... | head`), it ends without a traceback.
    """
    set_logging(logging.INFO, sys.stderr)
    torch.manual_seed(args.seed)
    try:
        with exit_on_user_error(), explain_out_of_memory("run", args):
            yield pick_device(0)
            sys.stdout.flush()
    except BrokenPipeError:
        # Python writes what is left at exit, which would fail once more.
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
    """This process's GPU, else the CPU with this process's share of its cores."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    keep_freed_memory()
    share = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    is_torchruns = threads == "1" and share > 1 and "TORCHELASTIC_RUN_ID" in os.environ
    if not threads or is_torchruns:
        # Launchers leave every rank with all cores (deepspeed) or, of several, with one (torchrun).
        torch.set_num_threads(max((cores or 1) // max(share, 1), 1))
    return torch.device("cpu")


def set_logging(level: int, stream: TextIO) -> None:
    """Our log, as plain lines on `stream`; the libraries' errors alone."""
    logging.basicConfig(level=level, format="%(message)s", stream=stream, force=True)
    for name in ("DeepSpeed", "deepspeed", "transformers", "datasets", "filelock", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", category=FutureWarning)
