"""Files of encoded data that outlive a run, in `<cache>/encoded`, named by what they depend on.

An entry is an Arrow file and a line with its checksum. It is written beside and renamed, so a
reader sees a whole one or none; of several processes one writes while the others wait. A file
that does not match its checksum is written anew. Entries that no run has used for a week go,
the oldest first, when all together exceed MOST_BYTES.
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


def folder() -> Path:
    return cache_dir() / "encoded"


def cached(key: Mapping[str, Any], what: str, write: Callable[[Any], None]) -> Any:
    """The Arrow file of `key`, mapped into memory; `write(sink)` makes it where there is none.

    `what` names it in the log. Without a cache folder that can be written to it is made in memory.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = folder() / f"{name}.arrow"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            found = _opened(path)
            if found is None:
                logger.info("data: encoding %s; kept in %s", what, path)
                _write(path, write)
                found = _opened(path)
                with suppress(OSError):  # another run may be cleaning up too
                    clean_up(keep=path)
    except OSError as error:
        logger.warning("data: no cache in %s (%s); %s is held in memory", folder(), error, what)
        found = None
    return in_memory(write) if found is None else found


def in_memory(write: Callable[[Any], None]) -> Any:
    """What `write(sink)` writes, in a buffer."""
    sink = pa.BufferOutputStream()
    write(sink)
    return sink.getvalue()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds this lock; some network folders know none."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # then each process writes for itself; the last rename wins
            logger.debug("no locks in %s", path.parent)
        yield


def _opened(path: Path) -> Any:
    """The entry's Arrow file without its seal, or None where there is none, or a damaged one."""
    if not path.is_file():
        return None
    size = path.stat().st_size - SEAL_BYTES
    if size < 0 or _seal_on(path, size) != _seal_of(path, size):
        logger.warning("data: %s is damaged; it is written anew", path)
        return None
    os.utime(path)
    return pa.memory_map(str(path)).read_buffer(size)


def _write(path: Path, write: Callable[[Any], None]) -> None:
    beside = path.with_suffix(f".{os.uname().nodename}-{os.getpid()}.partial")
    try:
        with pa.OSFile(str(beside), "wb") as sink:
            write(sink)
        seal = _seal_of(beside, beside.stat().st_size)
        with beside.open("ab") as file:
            file.write(seal)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _seal_on(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(size)
        return file.read()


def _seal_of(path: Path, size: int) -> bytes:
    crc, left = 0, size
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 2**20))):
            crc, left = zlib.crc32(block, crc), left - len(block)
    return SEAL.format(crc, size).encode()


def clean_up(*, keep: Path) -> None:
    """Remove what has not been used for a week, oldest first, while there is too much."""
    now = time.time()
    found = sorted((file.stat().st_mtime, file) for file in folder().iterdir() if file.is_file())
    total = sum(file.stat().st_size for _, file in found)
    for used, file in found:
        is_old = now - used > KEPT_SECONDS
        if is_old and file != keep and (total > MOST_BYTES or file.suffix == ".partial"):
            total -= file.stat().st_size
            file.unlink(missing_ok=True)
            logger.info("data: removed %s, which no run used for a week", file)
