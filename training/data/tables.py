"""Encoded rows as Arrow tables, on disk or in memory, and views of them that look like lists.

A token costs four bytes, a row some tens. A view decodes the rows that it is asked for from the
mapped file, so a data set may be larger than memory.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.data.encode import E, EncodedGroup, EncodedPrompt, EncodedText, Outcome, count_tokens
from training.data.lazy import Lazy
from training.data.records import Pair

Columns = Mapping[str, Any]  # pyarrow.ChunkedArray
Places = NDArray[np.int64]  # numbers of rows

IDS = pa.list_(pa.uint32())
PAIR = {
    "chosen": pa.uint32(),
    "rejected": pa.uint32(),
    "label": pa.float64(),
    "weight": pa.float64(),
    "margin": pa.float64(),
    "gap": pa.float64(),
    "votes": pa.map_(pa.string(), pa.float64()),
}
# Columns of every table. A dropped row has `longest` 0 and no content.
COMMON = {
    "source": pa.string(),  # without the file's name
    "key": pa.uint64(),  # the hashed prompt
    "longest": pa.uint32(),  # tokens of the longest sequence
    "sequences": pa.uint32(),
    "tokens": pa.uint32(),
    "cut": pa.uint32(),
    "dropped_pairs": pa.uint32(),
}
TARGET = np.uint32(2**31)  # marks a token that is to be predicted


@dataclass(frozen=True)
class TableFormat(Generic[E]):
    """How rows of one kind are kept in a table."""

    fields: Mapping[str, Any]  # Arrow types by column
    pack: Callable[[Any], dict[str, Any]]
    unpack: Callable[[Columns, int, str, int], E]  # of (row, its source, its number in the data)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema({**COMMON, **self.fields})

    def pack_row(self, source: str, key: int, outcome: Outcome[Any]) -> dict[str, Any]:
        row = outcome.row
        lengths = [] if row is None else count_tokens(row)
        return {
            "source": source,
            "key": key,
            "longest": max(lengths, default=0),
            "sequences": len(lengths),
            "tokens": sum(lengths),
            "cut": outcome.cut,
            "dropped_pairs": outcome.dropped_pairs,
            **(dict.fromkeys(self.fields) if row is None else self.pack(row)),
        }


def _read_ids(scalar: Any) -> NDArray[np.uint32]:
    return np.asarray(scalar.values.to_numpy())


def _pack_text(text: EncodedText) -> dict[str, Any]:
    marks = np.array(text.loss_mask, np.uint32) * TARGET
    return {"ids": np.array(text.input_ids, np.uint32) | marks}


def _unpack_text(columns: Columns, row: int, source: str, number: int) -> EncodedText:
    ids = _read_ids(columns["ids"][row])
    return EncodedText((ids & ~TARGET).tolist(), (ids >= TARGET).tolist(), source)


def _pack_group(group: EncodedGroup) -> dict[str, Any]:
    return {
        "prompt": np.array(group.prompt_ids, np.uint32),
        "responses": [np.array(ids, np.uint32) for ids in group.response_ids],
        "pairs": [vars(pair) for pair in group.pairs],
    }


def _unpack_group(columns: Columns, row: int, source: str, number: int) -> EncodedGroup:
    pairs = columns["pairs"][row].as_py()
    return EncodedGroup(
        _read_ids(columns["prompt"][row]).tolist(),
        [_read_ids(scalar).tolist() for scalar in columns["responses"][row].values],
        tuple(Pair(**(pair | {"votes": tuple(pair["votes"])})) for pair in pairs),
        source,
    )


def _pack_prompt(prompt: EncodedPrompt) -> dict[str, Any]:
    ids = np.array(prompt.input_ids, np.uint32)
    return {"ids": ids, "text": prompt.text, "fields": json.dumps(dict(prompt.fields))}


def _unpack_prompt(columns: Columns, row: int, source: str, number: int) -> EncodedPrompt:
    ids, text, fields = (columns[name][row] for name in ("ids", "text", "fields"))
    return EncodedPrompt(number, _read_ids(ids).tolist(), text.as_py(), json.loads(fields.as_py()))


TEXTS = TableFormat({"ids": IDS}, _pack_text, _unpack_text)
GROUPS = TableFormat(
    {"prompt": IDS, "responses": pa.list_(IDS), "pairs": pa.list_(pa.struct(PAIR))},
    _pack_group,
    _unpack_group,
)
PROMPTS = TableFormat(
    {"ids": IDS, "text": pa.large_string(), "fields": pa.large_string()},
    _pack_prompt,
    _unpack_prompt,
)


class Table(Generic[E]):
    """All rows of some data files, one after the other."""

    def __init__(
        self, layout: TableFormat[E], names: Sequence[str], buffers: Sequence[pa.Buffer]
    ) -> None:
        """`buffers` are Arrow files, which are mapped, not read; `names` are of the data files."""
        tables = [pa.ipc.open_file(buffer).read_all() for buffer in buffers]
        self._layout = layout
        self._names = names
        self.sizes = [len(table) for table in tables]
        self._ends = np.cumsum(self.sizes)
        whole = pa.concat_tables(tables)
        self._columns = {name: whole.column(name) for name in layout.schema.names}

    def __len__(self) -> int:
        return sum(self.sizes)

    def read_numbers(self, column: str) -> NDArray[Any]:
        return np.asarray(self._columns[column].to_numpy())

    def read_row(self, row: int, number: int) -> E:
        """Decode a row; `number` is its number in the data, by which prompts are known."""
        file = int(np.searchsorted(self._ends, row, side="right"))
        source = self._names[file] + self._columns["source"][row].as_py()
        return self._layout.unpack(self._columns, row, source, number)

    def read_tokens(self, row: int, start: int, stop: int) -> list[int]:
        """Read some tokens of a text without decoding all of it."""
        values = self._columns["ids"][row].values[start:stop].to_numpy()
        tokens: list[int] = (values & ~TARGET).tolist()
        return tokens


class TableView(Lazy[E]):
    """Some rows of a table in any order, as if they were a list."""

    def __init__(self, table: Table[E], rows: Places, numbers: Places) -> None:
        """`numbers[i]` is the number of row `rows[i]` of the table in all data."""
        self._table = table
        self._rows = rows
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._rows)

    def make_item(self, index: int) -> E:
        return self._table.read_row(int(self._rows[index]), int(self._numbers[index]))

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row's longest sequence."""
        return self._read_column("longest")

    @cached_property
    def counts(self) -> list[int]:
        """Number of sequences of each row."""
        return self._read_column("sequences")

    def read_tokens(self, index: int, start: int, stop: int) -> list[int]:
        return self._table.read_tokens(int(self._rows[index]), start, stop)

    def _read_column(self, column: str) -> list[int]:
        numbers: list[int] = self._table.read_numbers(column)[self._rows].tolist()
        return numbers


class Blocks(Lazy[EncodedText]):
    """All texts in one row, cut into blocks of `block` tokens; the last may be shorter.

    Every token is a target but a block's first, which nothing in its block predicts, so a last
    block of one token is dropped.
    """

    def __init__(self, texts: TableView[EncodedText], block: int) -> None:
        if block < 2:
            raise ValueError(f"block must be at least 2, got {block}")
        self._texts = texts
        self._block = block
        self._ends = np.cumsum(texts.lengths, dtype=np.int64)
        total = int(self._ends[-1]) if len(texts) else 0
        whole, rest = divmod(total, block)
        self.lengths = [block] * whole + [rest] * (rest >= 2)

    def __len__(self) -> int:
        return len(self.lengths)

    def make_item(self, index: int) -> EncodedText:
        start, count = index * self._block, self.lengths[index]
        text = int(np.searchsorted(self._ends, start, side="right"))
        ids: list[int] = []
        while len(ids) < count:
            first = start + len(ids) - (int(self._ends[text - 1]) if text else 0)
            ids += self._texts.read_tokens(text, first, first + count - len(ids))
            text += 1
        return EncodedText(ids, [False] + [True] * (count - 1))


def measure_texts(texts: Sequence[EncodedText]) -> list[int]:
    if isinstance(texts, TableView | Blocks):
        return texts.lengths
    return [len(text.input_ids) for text in texts]
