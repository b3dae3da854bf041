"""Tell from a process's stacks which phase of a stage it is in, so that a killer can choose one.

`write_hook` makes a folder for PYTHONPATH whose `sitecustomize` starts a thread in rank 0 that
writes the phases into a file every few milliseconds. The stages know nothing of it.
"""

import mmap
import os
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from training.paths import REPOSITORY

FILE = "KILL_RESUME_PHASE"  # environment variable: the file that the phases are written to
WIDTH = 32
LOAD, SAVE, REPORT = "load", "save", "report"
# File of training/ and function, "" for any; the innermost frame that matches decides.
PHASES = {
    ("runtime/saver.py", ""): SAVE,
    ("hybrid_engine/engine.py", ""): "generate",
    ("trainers/ppo/rollout.py", ""): "score",
    ("trainers/ppo/update.py", ""): "update",
    ("trainers/sft/step.py", "step"): "update",
    ("trainers/sft/step.py", "evaluate"): "score",
    ("trainers/reward/step.py", "step"): "update",
    ("trainers/reward/step.py", "score"): "score",
    ("trainers/saving.py", ""): REPORT,
    ("evaluation/reward_model/report.py", ""): REPORT,
    ("runtime/publish.py", "mark_complete"): REPORT,
    ("runtime/metrics.py", ""): REPORT,
}
WRITER = "runtime/checkpoint_store.py"  # runs in a thread beside the main one


def find_phase(frame: FrameType | None) -> str:
    """Return the phase that a stack is in."""
    while frame is not None:
        code = frame.f_code
        for (file, function), phase in PHASES.items():
            if code.co_filename.endswith(file) and function in ("", code.co_name):
                return phase
        frame = frame.f_back
    return LOAD


def list_phases(main: int) -> list[str]:
    """List the phase of the main thread, and SAVE if a checkpoint is written beside it."""
    stacks = sys._current_frames()
    others = [stack for thread, stack in stacks.items() if thread != main]
    return [find_phase(stacks.get(main)), *([SAVE] if any(map(_is_writing, others)) else [])]


def _is_writing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.endswith(WRITER):
            return True
        frame = frame.f_back
    return False


def write_hook(folder: Path) -> Path:
    """Write the hook; returns the folder to put first in PYTHONPATH."""
    hook = folder / "hook"
    hook.mkdir()
    text = (
        "import os, sys\n"
        "if os.environ.get('RANK') == '0':\n"
        f"    sys.path.append({str(REPOSITORY)!r})\n"
        "    from benchmarks.phases import write_phases\n"
        "    write_phases()\n"
    )
    (hook / "sitecustomize.py").write_text(text, encoding="utf-8")
    return hook


def write_phases() -> None:
    """Start a thread that writes this process's phases."""
    with open(os.environ[FILE], "r+b") as file:
        shared = mmap.mmap(file.fileno(), WIDTH)
    main = threading.main_thread().ident
    # CPython 3.11 can crash in `f_back` if the other thread runs while we walk its frames; on a
    # busy machine it may run after the usual 5 ms.
    sys.setswitchinterval(1.0)

    def follow() -> None:
        while True:
            shared[:] = " ".join(list_phases(main or 0)).encode().ljust(WIDTH)
            time.sleep(0.002)

    threading.Thread(target=follow, name="phases", daemon=True).start()
