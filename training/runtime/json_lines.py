"""A file of JSON lines; lines that do not fit on a full disk wait in memory for room."""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class JsonLines:
    """Appends rows to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._waiting = b""  # what could not be written so far

    def write(self, row: Mapping[str, Any]) -> None:
        """Append the waiting rows and this one. Logs the first of several failures."""
        failed_before = bool(self._waiting)
        self._waiting += json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            while self._waiting:
                written = self._file.write(self._waiting)
                self._waiting = self._waiting[written or 0 :]
        except OSError as error:
            if not failed_before:
                logger.error(
                    "%s: a line was not written: %s; the run continues, and tries again with the "
                    "next", self._path, error,
                )  # fmt: skip

    def sync(self) -> int:
        """Sync the file and return its size in bytes, waiting rows included."""
        with suppress(OSError):  # `write` logs it
            os.fsync(self._file.fileno())
        return self._file.tell() + len(self._waiting)

    def close(self) -> None:
        self._file.close()
        if self._waiting:
            logger.error("%s: its last %d bytes are lost", self._path, len(self._waiting))
