"""A file of JSON lines that a run writes; what a full disk refuses waits until there is room."""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class JsonLines:
    """Appends rows; a line is in the file, or in memory while the disk does not take it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._waiting = b""
        self._is_refused = False

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row, and whatever waits before it."""
        self._waiting += json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            while self._waiting:
                written = self._file.write(self._waiting)
                self._waiting = self._waiting[written or 0 :]
            self._is_refused = False
        except OSError as error:
            if not self._is_refused:
                logger.error(
                    "%s: a line was not written: %s; the run goes on, and tries again with the "
                    "next", self._path, error,
                )  # fmt: skip
            self._is_refused = True

    def size(self) -> int:
        """Bytes so far, those that wait among them; the others are on the disk then."""
        with suppress(OSError):  # said by `write`
            os.fsync(self._file.fileno())
        return self._file.tell() + len(self._waiting)

    def close(self) -> None:
        self._file.close()
        if self._waiting:
            logger.error("%s: its last %d bytes are lost", self._path, len(self._waiting))
