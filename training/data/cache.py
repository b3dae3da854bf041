"""Files of encoded data that outlive a run, in `<cache>/encoded`, named by what they depend on.

An entry is an Arrow file and a line with its checksum. It is written under another name and then
renamed, so a reader sees a whole entry or none; of several processes one writes while the others
wait. A file that does not match its checksum is written again. Entries that no run has used for a
week are removed, the oldest first, when all together exceed MOST_BYTES.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from training.paths import cache_dir

logger = logging.getLogger(__name__)

MOST_BYTES = 50 * 2**30
KEPT_SECONDS = 7 * 24 * 3600.0  # a run may still be reading what was opened in this time
SEAL = "crc32 {:08x} of {:016x} bytes\n"
SEAL_BYTES = len(SEAL.format(0, 0))


def find_folder() -> Path:
    return cache_dir() / "encoded"


def load_or_build(key: Mapping[str, Any], what: str, build: Callable[[Any], None]) -> pa.Buffer:
    """Map the Arrow file of `key` into memory, after `build(sink)` wrote it if it was missing.

    `what` names it in the log. It is built in memory if there is no cache folder to write to.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = find_folder() / f"{name}.arrow"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock")):
            if not _is_whole(path):
                logger.info("data: encoding %s; kept in %s", what, path)
                _write(path, build)
                with suppress(OSError):  # another run may be cleaning up too
                    clean_up(keep=path)
            os.utime(path)
            return pa.memory_map(str(path)).read_buffer(path.stat().st_size - SEAL_BYTES)
    except OSError as error:
        folder = find_folder()
        logger.warning("data: no cache in %s (%s); %s is held in memory", folder, error, what)
        return build_in_memory(build)


def build_in_memory(build: Callable[[Any], None]) -> pa.Buffer:
    """Return what `build(sink)` writes."""
    sink = pa.BufferOutputStream()
    build(sink)
    return sink.getvalue()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds this lock; some network folders have none."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # then each process writes for itself; the last rename wins
            logger.debug("no locks in %s", path.parent)
        yield


def _is_whole(path: Path) -> bool:
    """True if there is an entry with the checksum in its seal."""
    if not path.is_file():
        return False
    size = path.stat().st_size - SEAL_BYTES
    if size >= 0:
        with path.open("rb") as file:
            file.seek(size)
            if file.read() == _compute_seal(path, size):
                return True
    logger.warning("data: %s is damaged; it is written again", path)
    return False


def _write(path: Path, build: Callable[[Any], None]) -> None:
    partial = path.with_suffix(f".{os.uname().nodename}-{os.getpid()}.partial")
    try:
        with pa.OSFile(str(partial), "wb") as sink:
            build(sink)
        seal = _compute_seal(partial, partial.stat().st_size)
        with partial.open("ab") as file:
            file.write(seal)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _compute_seal(path: Path, size: int) -> bytes:
    crc, left = 0, size
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 2**20))):
            crc, left = zlib.crc32(block, crc), left - len(block)
    return SEAL.format(crc, size).encode()


def clean_up(*, keep: Path) -> None:
    """Remove entries that were not used for a week, oldest first, while there are too many."""
    now = time.time()
    files = [file for file in find_folder().iterdir() if file.is_file()]
    entries = sorted((file.stat().st_mtime, file) for file in files)
    total = sum(file.stat().st_size for file in files)
    for used, file in entries:
        is_old = now - used > KEPT_SECONDS
        if is_old and file != keep and (total > MOST_BYTES or file.suffix == ".partial"):
            total -= file.stat().st_size
            file.unlink(missing_ok=True)
            logger.info("data: removed %s, which no run used for a week", file)
