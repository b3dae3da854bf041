"""Models on disk: each file published whole, and a marker that says a run is complete."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from training.arguments.parsing import UserError
from training.launching.launch import LAUNCH_ID
from training.runtime.distributed import World

logger = logging.getLogger(__name__)

COMPLETE_FILE, STOPPED_FILE = "complete.json", "stopped.json"
# For a disk that is full; the others wait --timeout_minutes (30).
ROOM_SECONDS, LOOK_SECONDS = 600.0, 10.0
FULL = ("No space left on device", "Disk quota exceeded")
_UMASK = os.umask(0o022)
os.umask(_UMASK)  # it can only be read by setting it


def publish(folder: Path, write: Callable[[Path], None], world: World) -> None:
    """Let rank 0 write a model aside, sync it, and move it into `folder` file by file.

    A reader sees the old file or the new one, never half of one. A full disk is waited for; after
    `ROOM_SECONDS` it is a `UserError`, as is a folder that cannot be written.
    """
    if world.is_main:
        deadline = time.monotonic() + ROOM_SECONDS
        while not _is_published(folder, write, is_last=time.monotonic() > deadline):
            time.sleep(LOOK_SECONDS)
    world.barrier()


def _is_published(folder: Path, write: Callable[[Path], None], *, is_last: bool) -> bool:
    """Publish once; False where there is no room for it, unless this is the last time."""
    from safetensors import SafetensorError

    staging = folder / ".writing"  # inside: files move only within a file system
    try:
        _publish(folder, write, staging)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        if is_last or not any(words in str(error) for words in FULL):
            raise UserError(
                f"{folder}: the model cannot be written: {error}; make room, or mend it, and run "
                "the same command: it goes on from the newest checkpoint"
            ) from error
        logger.error(
            "%s: no room for the model; the run waits for it, for up to %.0f minutes: %s",
            folder, ROOM_SECONDS / 60, error,
        )  # fmt: skip
        return False
    return True


def _publish(folder: Path, write: Callable[[Path], None], staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    write(staging)
    for source in sorted(staging.rglob("*")):
        target = folder / source.relative_to(staging)
        if source.is_dir():
            target.mkdir(exist_ok=True)
            continue
        source.chmod(0o666 & ~_UMASK)  # safetensors lets nobody else read what it writes
        with source.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(source, target)
    shutil.rmtree(staging)


def mark_complete(output_dir: str, world: World) -> None:
    """Write the completion marker: the last thing that a stage does."""
    world.barrier()
    if world.is_main:
        _mark(Path(output_dir) / COMPLETE_FILE)
        logger.info("saved: %s", output_dir)


def mark_stopped(output_dir: str, world: World) -> None:
    """Write that this launch was stopped and saved: launchers hide their ranks' exit status."""
    if world.is_main:
        with suppress(OSError):  # the disk may be full by now; the ranks' own status tells it too
            _mark(Path(output_dir) / STOPPED_FILE)
    world.barrier()


def _mark(target: Path) -> None:
    marker = {"finished": time.time(), "launch": os.environ.get(LAUNCH_ID, "")}
    staging = target.with_suffix(".tmp")
    staging.write_text(json.dumps(marker) + "\n", encoding="utf-8")
    os.replace(staging, target)


def check_complete(path: str, *, flag: str, hint: str) -> None:
    """Raise `UserError` when `path` is the output of a stage that has not finished.

    A folder without args.json was not made by a stage, and is taken as it is.
    """
    folder = Path(path)
    if (folder / "args.json").is_file() and not (folder / COMPLETE_FILE).is_file():
        raise UserError(f"{flag}: the run that writes {path} has not finished; {hint}")
