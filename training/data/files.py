"""Reads one data file into rows, each of which knows its line; writes small files.

Knows formats (JSON Lines, JSON, CSV, Parquet, text), not what the rows mean.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.arguments.parsing import UserError

Row = tuple[dict[str, Any], str]  # (row, "path:line")

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")


def read_file(path: str, *, stage: str) -> list[Row]:
    """All rows of one file, by its suffix; at least one."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of data file; known are {' '.join(SUFFIXES)}")
    is_text = suffix != ".parquet"
    rows = rows_of_text(path, _decoded(path), stage=stage) if is_text else _parquet_rows(path)
    if not rows:
        raise UserError(f"{path}: the file has no rows")
    return rows


def rows_of_text(path: str, text: str, *, stage: str) -> list[Row]:
    """All rows of what stands, or will stand, in a text file."""
    suffix = Path(path).suffix.lower()
    if suffix == ".txt":
        return _text_rows(path, text, stage)
    if suffix in (".csv", ".tsv"):
        return list(_csv_rows(path, text, "," if suffix == ".csv" else "\t"))
    return _json_rows(path, text) if suffix == ".json" else list(_json_lines(path, text))


def _decoded(path: str) -> str:
    """The file's text: UTF-8, without a byte-order mark."""
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}:1: the file is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        read, start = error.object, error.start  # without the byte-order mark
        line = read.count(b"\n", 0, start) + 1
        raise UserError(
            f"{path}:{line}: not UTF-8 (byte 0x{read[start]:02x}); save the file as UTF-8"
        ) from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines: it also splits at U+2028 and its like, which JSON strings may hold.
    yield from enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1)


def _parsed(text: str, path: str, line: int) -> Any:
    """The JSON value in `text`, which starts on line `line` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{line + error.lineno - 1}: not valid JSON: {error.msg} (column {error.colno})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{line}: not valid JSON: {error}") from None


def _object(value: Any, source: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{source}: a row must be a JSON object, got {type(value).__name__}")
    return value, source


def _json_lines(path: str, text: str) -> Iterator[Row]:
    for number, line in _lines(text):
        if line.strip():
            yield _object(_parsed(line, path, number), f"{path}:{number}")


def _json_rows(path: str, text: str) -> list[Row]:
    """A list of objects, {"data": [...]}, or JSON Lines that are merely named .json."""
    if not text.strip():
        return []
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one whole value, and then another
            return list(_json_lines(path, text))
        raise UserError(
            f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict):
        return [(value, f"{path}:1")]
    if not isinstance(value, list):
        raise UserError(
            f'{path}: must hold a list of objects or {{"data": [...]}}, got {type(value).__name__}'
        )
    # The decoder forgets lines, so a row of a JSON list is named by its place in the list.
    return [_object(item, f"{path}:row {n}") for n, item in enumerate(value, start=1)]


def _csv_rows(path: str, text: str, delimiter: str) -> Iterator[Row]:
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if header is None:
                    header = _csv_header(cells, f"{path}:{line}")
                elif len(cells) != len(header):
                    raise UserError(
                        f"{path}:{line}: {len(cells)} cells, but the header has {len(header)} "
                        "columns (a cell with the separator in it needs quotes)"
                    )
                else:
                    yield dict(zip(header, cells, strict=True)), f"{path}:{line}"
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not valid CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _csv_header(cells: list[str], source: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{source}: the header names a column twice: {twice}")
    return header


def _parquet_rows(path: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(Path(path).expanduser())
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path}: cannot be read as Parquet: {reason}") from error
    return [(row, f"{path}:row {n}") for n, row in enumerate(table.to_pylist(), start=1)]


def _text_rows(path: str, text: str, stage: str) -> list[Row]:
    """One prompt a line for PPO; for pretraining one text between blank lines."""
    if stage == "ppo":
        return [
            ({"prompt": line}, f"{path}:{number}") for number, line in _lines(text) if line.strip()
        ]
    if stage != "pretrain":
        raise UserError(
            f"{path}: a .txt file holds prompts or plain text; this stage needs .jsonl, .csv "
            "or .parquet with named columns"
        )
    rows: list[Row] = []
    block: list[str] = []
    start = 0
    for number, line in [*_lines(text), (0, "")]:  # a last blank line ends the last block
        if line.strip():
            start = start if block else number
            block.append(line)
        elif block:
            rows.append(({"text": "\n".join(block)}, f"{path}:{start}"))
            block = []
    return rows


def as_text(value: Any) -> str:
    """JSON that people read."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_text(path: str, text: str, flag: str) -> None:
    """Write what `flag` names a file for: the whole of it, or what was there stays.

    What is no file (/dev/stdout, a pipe) is written to as it is.
    """
    named = Path(path).expanduser()
    is_stream = named.is_relative_to("/dev") or (named.exists() and not named.is_file())
    target = named.resolve()  # a link stays one
    try:
        if is_stream:
            named.write_text(text, encoding="utf-8")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f".{target.name}.new")
        staging.write_text(text, encoding="utf-8")
        staging.replace(target)
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written: {error.strerror}") from error
