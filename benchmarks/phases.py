"""Which phases of a stage a rank is in, told by its stacks; so that a killer can choose its moment.

`write_hook` makes a folder for PYTHONPATH whose `sitecustomize` starts, in rank 0 alone, a thread
that writes them into a file every few milliseconds. The programs know nothing of it.
"""

import mmap
import os
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from training.paths import REPOSITORY

FILE = "KILL_RESUME_PHASE"  # environment variable: the file that the phase is written to
WIDTH = 32
LOAD, SAVE, REPORT = "load", "save", "report"
# (end of the file's name, function): the innermost that matches tells.
PHASES = {
    ("runtime/checkpoints.py", "_begin"): SAVE,
    ("runtime/checkpoints.py", "_written"): SAVE,
    ("hybrid_engine/engine.py", "_generate"): "generate",
    ("trainers/rollout.py", "collect"): "score",
    ("trainers/ppo.py", "update"): "update",
    ("trainers/sft.py", "step"): "update",
    ("trainers/reward.py", "step"): "update",
    ("trainers/sft.py", "evaluate"): "score",
    ("trainers/reward.py", "score"): "score",
    ("trainers/saving.py", "save_policy"): REPORT,
    ("trainers/saving.py", "save_critic"): REPORT,
    ("trainers/saving.py", "save_scalar"): REPORT,
    ("evaluation/reward_run.py", "add"): REPORT,
    ("evaluation/reward_run.py", "finish"): REPORT,
    ("runtime/checkpoint.py", "mark_complete"): REPORT,
    ("runtime/metrics.py", "log"): REPORT,
    ("runtime/metrics.py", "samples"): REPORT,
}


def phase_of(frame: FrameType | None) -> str:
    """The phase that a stack is in."""
    while frame is not None:
        code = frame.f_code
        for (file, function), phase in PHASES.items():
            if code.co_name == function and code.co_filename.endswith(file):
                return phase
        frame = frame.f_back
    return LOAD


def phases_now(main: int) -> list[str]:
    """The main thread's, and that a checkpoint is written beside it."""
    stacks = sys._current_frames()
    found = [phase_of(stacks.get(main))]
    if any(_is_writing(stack) for thread, stack in stacks.items() if thread != main):
        found.append(SAVE)
    return found


def _is_writing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.endswith("runtime/checkpoint_store.py"):
            return True
        frame = frame.f_back
    return False


def write_hook(folder: Path) -> Path:
    """The folder to put first in PYTHONPATH."""
    hook = folder / "hook"
    hook.mkdir()
    text = (
        "import os, sys\n"
        "if os.environ.get('RANK') == '0':\n"
        f"    sys.path.append({str(REPOSITORY)!r})\n"
        "    from benchmarks.phases import watch\n"
        "    watch()\n"
    )
    (hook / "sitecustomize.py").write_text(text, encoding="utf-8")
    return hook


def watch() -> None:
    """Write this process's phases from now on."""
    with open(os.environ[FILE], "r+b") as file:
        shared = mmap.mmap(file.fileno(), WIDTH)
    main = threading.main_thread().ident
    # CPython 3.11 can crash in `f_back` when the other thread has gone on amid our walk up its
    # frames; on a busy machine it is let in after the usual 5 ms.
    sys.setswitchinterval(1.0)

    def follow() -> None:
        while True:
            shared[:] = " ".join(phases_now(main or 0)).encode().ljust(WIDTH)
            time.sleep(0.002)

    threading.Thread(target=follow, name="phases", daemon=True).start()
