"""Publish models, each file whole or not at all, and mark runs as complete or stopped."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from training.arguments.parsing import UserError
from training.launching.launch import LAUNCH_ID
from training.runtime.distributed import World

logger = logging.getLogger(__name__)

COMPLETE_FILE, STOPPED_FILE = "complete.json", "stopped.json"
# To wait for room on a full disk; meanwhile the other ranks wait --timeout_minutes (30).
ROOM_SECONDS, POLL_SECONDS = 600.0, 10.0
FULL = ("No space left on device", "Disk quota exceeded")
_UMASK = os.umask(0o022)
os.umask(_UMASK)  # it can only be read by setting it


def publish(folder: Path, write: Callable[[Path], None], world: World) -> None:
    """Let rank 0 write a model to a staging folder, sync it, and move it into `folder` by file.

    A reader sees the old file or the new one, never half of one. On a full disk it retries;
    `UserError` after `ROOM_SECONDS`, and at once if the folder cannot be written.
    """
    if world.is_main:
        deadline = time.monotonic() + ROOM_SECONDS
        while not _try_publish(folder, write, is_last=time.monotonic() > deadline):
            time.sleep(POLL_SECONDS)
    world.barrier()


def _try_publish(folder: Path, write: Callable[[Path], None], *, is_last: bool) -> bool:
    """Publish once. Return False if the disk is full, unless this is the last attempt."""
    staging = folder / ".writing"  # inside, since files move only within a file system
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write(staging)
        _move_files(staging, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        if is_last or not any(words in str(error) for words in FULL):
            raise UserError(
                f"{folder}: the model cannot be written: {error}; make room, or fix it, and run "
                "the same command: it resumes from the newest checkpoint"
            ) from error
        logger.error(
            "%s: no room for the model; the run waits for it, for up to %.0f minutes: %s",
            folder, ROOM_SECONDS / 60, error,
        )  # fmt: skip
        return False
    return True


def _move_files(staging: Path, folder: Path) -> None:
    for source in sorted(staging.rglob("*")):
        target = folder / source.relative_to(staging)
        if source.is_dir():
            target.mkdir(exist_ok=True)
            continue
        source.chmod(0o666 & ~_UMASK)  # safetensors makes files that only their owner can read
        with source.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(source, target)
    shutil.rmtree(staging)


def mark_complete(output_dir: str, world: World) -> None:
    """Write the completion marker, as the last act of a stage."""
    world.barrier()
    if world.is_main:
        _write_marker(Path(output_dir) / COMPLETE_FILE)
        logger.info("saved: %s", output_dir)


def mark_stopped(output_dir: str, world: World) -> None:
    """Mark this launch as stopped and saved: launchers hide the exit status of their ranks."""
    if world.is_main:
        with suppress(OSError):  # the disk may be full; the exit status of the ranks tells it too
            _write_marker(Path(output_dir) / STOPPED_FILE)
    world.barrier()


def _write_marker(target: Path) -> None:
    marker = {"finished": time.time(), "launch": os.environ.get(LAUNCH_ID, "")}
    staging = target.with_suffix(".tmp")
    staging.write_text(json.dumps(marker) + "\n", encoding="utf-8")
    os.replace(staging, target)


def check_complete(path: str, *, flag: str, hint: str) -> None:
    """Raise `UserError` if `path` is the output of a stage that has not finished.

    A folder without args.json was not written by a stage, and is accepted.
    """
    folder = Path(path)
    if (folder / "args.json").is_file() and not (folder / COMPLETE_FILE).is_file():
        raise UserError(f"{flag}: the run that writes {path} has not finished; {hint}")
