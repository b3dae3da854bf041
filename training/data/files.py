"""Read one data file into rows, each with its line; write small files.

Knows formats (JSON Lines, JSON, CSV, Parquet, text), not what the rows mean. Rows are read one by
one; memory holds one row, of Parquet a batch, and only of .json the whole file.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from training.arguments.parsing import UserError

Row = tuple[dict[str, Any], str]  # (row, "path:line")
Fail = Callable[[UserError], None]  # handles a mistake in a file; if it returns, reading continues
Lines = Callable[[str | None], Iterable[str]]  # yields lines, split by `newline` as of `open`

STREAMS = (Path("/dev"), Path("/dev/fd"))  # /dev/stdout may be a file that must not be replaced
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
PARQUET_ROWS = 256  # read at once

# Decoded from bytes that are not UTF-8; no valid text holds these.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def raise_error(error: UserError) -> None:
    """End the reading at the first mistake: the usual `Fail`."""
    raise error


def read_file(path: str, *, stage: str) -> list[Row]:
    return list(iterate_file(path, stage=stage))


def iterate_file(path: str, *, stage: str, fail: Fail = raise_error) -> Iterator[Row]:
    """Yield the rows of one file, read by its suffix; calls `fail` if there are none."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of data file; known are {' '.join(SUFFIXES)}")
    has_failed = has_rows = False

    def note(error: UserError) -> None:
        nonlocal has_failed
        has_failed = True
        fail(error)

    try:
        for row in _parse_rows(path, partial(_read_lines, path), stage, note):
            has_rows = True
            yield row
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not has_rows and not has_failed:
        fail(UserError(f"{path}: the file has no rows"))


def parse_rows(path: str, text: str, *, stage: str) -> list[Row]:
    """Parse the text that will be written to a file."""
    return list(_parse_rows(path, partial(io.StringIO, text), stage, raise_error))


def _parse_rows(path: str, lines: Lines, stage: str, fail: Fail) -> Iterator[Row]:
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path, fail)
    if suffix in (".csv", ".tsv"):
        return _parse_csv(path, lines(""), "," if suffix == ".csv" else "\t", fail)
    if suffix == ".json":
        return _parse_json(path, _number_lines(path, lines(None), raise_error), fail)
    numbered = _number_lines(path, lines(None), fail)
    if suffix == ".txt":
        return _parse_text(path, numbered, stage)
    return _parse_json_lines(path, numbered, fail)


def _read_lines(path: str, newline: str | None) -> Iterator[str]:
    """Yield the lines of a file without a byte-order mark; bytes that are not UTF-8 as surrogates.

    Lines end at the file's line breaks, not at U+2028 and others of str.splitlines, which JSON
    strings may hold.
    """
    file = Path(path).expanduser()
    with file.open("rb") as start:
        if start.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{path}:1: the file is UTF-16; save it as UTF-8")
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as lines:
        yield from lines


def _number_lines(path: str, lines: Iterable[str], fail: Fail) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines that are UTF-8."""
    for number, line in enumerate(lines, start=1):
        if _is_utf8(line, f"{path}:{number}", fail):
            yield number, line


def _is_utf8(text: str, source: str, fail: Fail) -> bool:
    bad = _NOT_UTF8.search(text)
    if bad:
        byte = ord(bad.group()) - 0xDC00
        fail(UserError(f"{source}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"))
    return not bad


def _parse_json_lines(path: str, lines: Iterable[tuple[int, str]], fail: Fail) -> Iterator[Row]:
    for number, line in lines:
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            value = json.loads(line.rstrip("\n"))
        except json.JSONDecodeError as error:
            fail(UserError(f"{source}: not valid JSON: {error.msg} (column {error.colno})"))
        except (ValueError, RecursionError) as error:
            fail(UserError(f"{source}: not valid JSON: {error}"))
        else:
            yield from _check_object(value, source, fail)


def _check_object(value: Any, source: str, fail: Fail) -> Iterator[Row]:
    if isinstance(value, dict):
        yield value, source
    else:
        fail(UserError(f"{source}: a row must be a JSON object, got {type(value).__name__}"))


def _parse_json(path: str, numbered: Iterable[tuple[int, str]], fail: Fail) -> Iterator[Row]:
    """Parse a list of objects, {"data": [...]}, or JSON Lines in a file that is named .json."""
    lines = list(numbered)
    text = "".join(line for _, line in lines)
    if not text.strip():
        return
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one whole value, and then another
            yield from _parse_json_lines(path, lines, fail)
            return
        raise UserError(
            f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict):
        yield value, f"{path}:1"
    elif isinstance(value, list):
        # The decoder gives no lines, so a row of a JSON list is named by its number in the list.
        for number, item in enumerate(value, start=1):
            yield from _check_object(item, f"{path}:row {number}", fail)
    else:
        raise UserError(
            f'{path}: must hold a list of objects or {{"data": [...]}}, got {type(value).__name__}'
        )


def _parse_csv(path: str, lines: Iterable[str], delimiter: str, fail: Fail) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # for the whole process; nothing else here reads CSV
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        source = f"{path}:{line}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if header is None:
                raise UserError(f"{source}: not valid CSV: {error}") from None
            fail(UserError(f"{source}: not valid CSV: {error}"))
            cells = []
        if cells is None:
            return
        line = reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _check_header(cells, source)
        elif len(cells) != len(header):
            fail(
                UserError(
                    f"{source}: {len(cells)} cells, but the header has {len(header)} "
                    "columns (a cell with the separator in it needs quotes)"
                )
            )
        elif all(_is_utf8(cell, source, fail) for cell in cells):
            yield dict(zip(header, cells, strict=True)), source


def _check_header(cells: list[str], source: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    for name in header:
        _is_utf8(name, source, raise_error)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{source}: the header names a column twice: {twice}")
    return header


def _read_parquet(path: str, fail: Fail) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(Path(path).expanduser()) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{path}:row {number}"
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        reason = str(error).split("\n")[0]
        after = f" after row {number}" if number else ""
        fail(UserError(f"{path}: cannot be read as Parquet{after}: {reason}"))


def _parse_text(path: str, lines: Iterable[tuple[int, str]], stage: str) -> Iterator[Row]:
    """Parse one prompt per line for PPO; for pretraining, texts between blank lines."""
    if stage not in ("ppo", "pretrain"):
        raise UserError(
            f"{path}: a .txt file holds prompts or plain text; this stage needs .jsonl, .csv "
            "or .parquet with named columns"
        )
    block: list[str] = []
    start = 0
    for number, line in lines:
        text = line.rstrip("\n")
        if stage == "ppo":
            if text.strip():
                yield {"prompt": text}, f"{path}:{number}"
        elif text.strip():
            start = start if block else number
            block.append(text)
        elif block:
            yield {"text": "\n".join(block)}, f"{path}:{start}"
            block = []
    if block:
        yield {"text": "\n".join(block)}, f"{path}:{start}"


def format_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_text(path: str, text: str, flag: str) -> None:
    """Write the file that `flag` names: as a whole, or the old file stays.

    A path that is no file (/dev/stdout, a pipe) is written to directly.
    """
    named = Path(path).expanduser()
    is_stream = named.parent in STREAMS or (named.exists() and not named.is_file())
    target = named.resolve()  # a link stays one
    try:
        if is_stream:
            named.write_text(text, encoding="utf-8")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f".{target.name}.new")
        try:
            staging.write_text(text, encoding="utf-8")
            staging.replace(target)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written: {error.strerror}") from error
