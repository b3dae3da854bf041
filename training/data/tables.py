"""Encoded rows as Arrow tables, on disk or in memory, and views of them that look like lists.

A token costs four bytes, a row some tens; what is not being looked at is on disk, where the table
is. A view decodes the rows it is asked for, so a set may be larger than memory.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.data.encode import EncodedGroup, EncodedPrompt, EncodedText, Outcome
from training.data.lazy import Lazy
from training.data.outcomes import count_tokens
from training.data.records import Pair
from training.data.splits import Places

E = TypeVar("E", bound=EncodedText | EncodedGroup | EncodedPrompt)

Columns = Mapping[str, Any]  # pyarrow.ChunkedArray

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
# Beside what a row holds. Where nothing is left of a row, `longest` is 0 and its content null.
COMMON = {
    "source": pa.string(),  # without the part's name, which it starts with
    "key": pa.uint64(),  # of the prompt
    "longest": pa.uint32(),  # tokens of the longest sequence
    "sequences": pa.uint32(),
    "tokens": pa.uint32(),
    "cut": pa.uint32(),
    "dropped_pairs": pa.uint32(),
}
TARGET = np.uint32(2**31)  # marks a token that is to be predicted


@dataclass(frozen=True)
class Layout(Generic[E]):
    """How rows of one kind stand in a table."""

    fields: Mapping[str, Any]  # Arrow types by column
    pack: Callable[[E], dict[str, Any]]
    unpack: Callable[[Columns, int, str, int], E]  # of (row, its source, its place in the data)

    @property
    def schema(self) -> Any:
        return pa.schema({**COMMON, **self.fields})


def _ids(scalar: Any) -> NDArray[np.uint32]:
    return np.asarray(scalar.values.to_numpy())


def _pack_text(text: EncodedText) -> dict[str, Any]:
    marks = np.array(text.loss_mask, np.uint32) * TARGET
    return {"ids": np.array(text.input_ids, np.uint32) | marks}


def _unpack_text(columns: Columns, row: int, source: str, place: int) -> EncodedText:
    ids = _ids(columns["ids"][row])
    return EncodedText((ids & ~TARGET).tolist(), (ids >= TARGET).tolist(), source)


def _pack_group(group: EncodedGroup) -> dict[str, Any]:
    return {
        "prompt": np.array(group.prompt_ids, np.uint32),
        "responses": [np.array(ids, np.uint32) for ids in group.response_ids],
        "pairs": [vars(pair) for pair in group.pairs],
    }


def _unpack_group(columns: Columns, row: int, source: str, place: int) -> EncodedGroup:
    return EncodedGroup(
        _ids(columns["prompt"][row]).tolist(),
        [_ids(scalar).tolist() for scalar in columns["responses"][row].values],
        tuple(_unpack_pair(**pair) for pair in columns["pairs"][row].as_py()),
        source,
    )


def _unpack_pair(votes: list[tuple[str, float]], **values: Any) -> Pair:
    return Pair(votes=tuple(votes), **values)


def _pack_prompt(prompt: EncodedPrompt) -> dict[str, Any]:
    ids = np.array(prompt.input_ids, np.uint32)
    return {"ids": ids, "text": prompt.text, "fields": json.dumps(dict(prompt.fields))}


def _unpack_prompt(columns: Columns, row: int, source: str, place: int) -> EncodedPrompt:
    fields = json.loads(columns["fields"][row].as_py())
    return EncodedPrompt(
        place, _ids(columns["ids"][row]).tolist(), columns["text"][row].as_py(), fields
    )


TEXTS = Layout({"ids": IDS}, _pack_text, _unpack_text)
GROUPS = Layout(
    {"prompt": IDS, "responses": pa.list_(IDS), "pairs": pa.list_(pa.struct(PAIR))},
    _pack_group,
    _unpack_group,
)
PROMPTS = Layout(
    {"ids": IDS, "text": pa.large_string(), "fields": pa.large_string()},
    _pack_prompt,
    _unpack_prompt,
)


@dataclass(frozen=True)
class Encoded(Generic[E]):
    """A record that was encoded: where it stands in its part, its key, what became of it."""

    source: str
    key: int
    outcome: Outcome[E]


def write_table(sink: Any, layout: Layout[E], batches: Iterable[Sequence[Encoded[E]]]) -> None:
    """One Arrow file; memory holds one batch at a time."""
    schema = layout.schema
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            rows = [_packed(layout, encoded) for encoded in batch]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def _packed(layout: Layout[E], encoded: Encoded[E]) -> dict[str, Any]:
    row, outcome = encoded.outcome.row, encoded.outcome
    lengths = [] if row is None else count_tokens(row)
    return {
        "source": encoded.source,
        "key": encoded.key,
        "longest": max(lengths, default=0),
        "sequences": len(lengths),
        "tokens": sum(lengths),
        "cut": outcome.cut,
        "dropped_pairs": outcome.dropped_pairs,
        **(dict.fromkeys(layout.fields) if row is None else layout.pack(row)),
    }


class Table(Generic[E]):
    """All rows of some parts, one after the other."""

    def __init__(self, layout: Layout[E], parts: Sequence[tuple[str, Any]]) -> None:
        """`parts` are names and Arrow files (buffers), which are not read but mapped."""
        tables = [pa.ipc.open_file(buffer).read_all() for _, buffer in parts]
        self._layout = layout
        self._names = [name for name, _ in parts]
        self.sizes = [len(table) for table in tables]
        self._ends = np.cumsum(self.sizes)
        whole = pa.concat_tables(tables)
        self._columns = {name: whole.column(name) for name in layout.schema.names}

    def __len__(self) -> int:
        return sum(self.sizes)

    def numbers(self, column: str) -> NDArray[Any]:
        """A column of numbers, for all rows."""
        return np.asarray(self._columns[column].to_numpy())

    def row(self, row: int, place: int) -> E:
        part = int(np.searchsorted(self._ends, row, side="right"))
        source = self._names[part] + self._columns["source"][row].as_py()
        return self._layout.unpack(self._columns, row, source, place)

    def tokens(self, row: int, start: int, stop: int) -> list[int]:
        """Some tokens of a text, without decoding all of it."""
        values = self._columns["ids"][row].values[start:stop].to_numpy()
        found: list[int] = (values & ~TARGET).tolist()
        return found


class TableView(Lazy[E]):
    """Some rows of a table, in an order of their own, as if they were a list."""

    def __init__(self, table: Table[E], rows: Places, places: Places) -> None:
        """`places` say which row of all data each is; prompts are known by them."""
        self._table = table
        self._rows = rows
        self._places = places

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, place: int) -> E:
        return self._table.row(int(self._rows[place]), int(self._places[place]))

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row's longest sequence."""
        return self._numbers("longest")

    @cached_property
    def counts(self) -> list[int]:
        """How many sequences each row has."""
        return self._numbers("sequences")

    def tokens(self, index: int, start: int, stop: int) -> list[int]:
        return self._table.tokens(int(self._rows[index]), start, stop)

    def _numbers(self, column: str) -> list[int]:
        found: list[int] = self._table.numbers(column)[self._rows].tolist()
        return found
