"""Rows of any stage to encoded rows: read, check, encode in batches, keep; mix, hold out, report.

What stands here knows no stage: `prepare` says what a row is and how it is encoded.
"""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, compress
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.data import contamination
from training.data.annotation.export import is_export
from training.data.cache import cached, in_memory
from training.data.encode import EncodedGroup, EncodedPrompt, EncodedText, Outcome
from training.data.files import Row, raise_error
from training.data.outcomes import EncodeReport
from training.data.records import Record, sequences
from training.data.sources import Convert, DataFile, find_data_files, has_split
from training.data.splits import Places, held_out, repeat_by_weight
from training.data.tables import Encoded, Layout, Table, TableView, write_table
from training.draws import make_random

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
E = TypeVar("E", bound=EncodedText | EncodedGroup | EncodedPrompt)
Tokenizer = Any

FORMAT = 1  # of the tables and of what is in them; another one makes all caches anew
BATCH_ROWS = 512  # encoded together, fewer where rows are long
BATCH_CHARACTERS = 500_000


@dataclass(frozen=True)
class Work(Generic[R, E]):
    """How one stage's rows become encoded rows, and all that this depends on."""

    stage: str
    from_row: Callable[[Any, str], R]
    encode: Callable[[list[R]], list[Outcome[E]]]
    layout: Layout[E]
    limit: str  # the flag that sets the length, with its value
    settings: Mapping[str, Any]  # what `encode` depends on beside the tokenizer
    tokenizer: Tokenizer
    convert: Convert | None = None
    digest: Callable[[str], int] = contamination.digest  # of a prompt: its key


@dataclass(frozen=True)
class Source(Generic[E]):
    """The encoded rows of some data paths; `order` has the rows that are read, path by path."""

    table: Table[E]
    parts: list[DataFile]
    digests: list[str]  # of the parts' content
    order: Places
    first_place: int  # of the rows of `order` in all data

    @property
    def keys(self) -> NDArray[np.uint64]:
        """The keys of the rows of `order`."""
        return np.asarray(self.table.numbers("key")[self.order], np.uint64)

    def rows(self, places: Places, limit: str) -> tuple[TableView[E], EncodeReport]:
        """The rows at these places of `order`, less those of which nothing is left; the account."""
        taken = self.order[places]
        is_kept = self.table.numbers("longest")[taken] > 0
        tokens, cut, dropped_pairs = (
            int(self.table.numbers(name)[taken].sum(dtype=np.int64))
            for name in ("tokens", "cut", "dropped_pairs")
        )
        dropped = int((~is_kept).sum())
        report = EncodeReport(len(taken), cut, dropped, tokens, limit, dropped_pairs)
        return TableView(self.table, taken[is_kept], places[is_kept] + self.first_place), report


def load(args: CommonArgs, work: Work[R, E]) -> tuple[TableView[E], TableView[E]]:
    """Training and held-out rows.

    Held-out data is --eval_data_path where given; else the data's own dev split, if every path has
    one; else a share of the prompts, none of which stays in the training data.
    """
    train = source_of(args, work, args.data_path, "train", weights=args.data_weights)
    own_dev = all(has_split(path, stage=work.stage, split="dev") for path in args.data_path)
    paths = args.eval_data_path or (args.data_path if own_dev else [])
    if paths:
        evaluation = source_of(args, work, paths, "dev", first_place=len(train.order))
        is_train = np.ones(len(train.order), bool)
        held = np.arange(len(evaluation.order))
    else:
        evaluation = train
        is_held = held_out(train.keys, eval_fraction=args.eval_fraction, seed=args.seed)
        is_train, held = ~is_held, np.flatnonzero(is_held)
    if args.decontaminate and len(held):
        is_train &= ~_shared(args, work, train, is_train, evaluation, held)
        if not is_train.any():
            raise UserError("--eval_data_path holds every prompt of --data_path; nothing to train")
    rows, report = train.rows(np.flatnonzero(is_train), work.limit)
    logger.info("data: %s", report.summary())
    if not len(held):
        return rows, TableView(evaluation.table, held, held)
    held_rows, report = evaluation.rows(held[: args.max_eval_rows or None], work.limit)
    logger.info("held out: %s", report.summary())
    return rows, held_rows


def source_of(
    args: CommonArgs,
    work: Work[R, E],
    paths: Sequence[str],
    split: str,
    *,
    weights: Sequence[float] = (),
    first_place: int = 0,
) -> Source[E]:
    """The rows of these paths, each path's as often as its weight says."""
    parts = find_data_files(paths, stage=work.stage, split=split)
    digests = [part.digest() for part in parts]
    files = [_encoded_file(args, work, *pair) for pair in zip(parts, digests, strict=True)]
    names = [part.name for part in parts]
    table = Table(work.layout, list(zip(names, files, strict=True)))
    order, start = [], 0
    for path, weight in zip(paths, weights or [1.0] * len(paths), strict=True):
        mine = [index for index, part in enumerate(parts) if part.path == path]
        count = sum(table.sizes[index] for index in mine)
        # By content, so that the same files under another path give the same rows.
        draw = make_random("weight", args.seed, *(digests[index] for index in mine))
        order.append(start + repeat_by_weight(count, weight, draw))
        start += count
    return Source(table, parts, digests, np.concatenate(order), first_place)


def _encoded_file(args: CommonArgs, work: Work[R, E], part: DataFile, digest: str) -> Any:
    """The Arrow file of a part, from the cache where it may be kept."""

    def write(sink: Any) -> None:
        write_table(sink, work.layout, _batches(work, part))
        if part.digest() != digest:
            raise UserError(f"{part.name}: changed while it was read; run again")

    if not args.data_cache or _is_export(work, part):  # an export's account belongs in each log
        return in_memory(write)
    key = {
        "format": FORMAT,
        "content": digest,
        "rows": work.stage,
        "layout": str(work.layout.schema),
        "settings": dict(work.settings),
        "tokenizer": hash_tokenizer(work.tokenizer),
        "versions": [version(name) for name in ("transformers", "tokenizers", "pyarrow")],
    }
    return cached(key, part.name, write)


def hash_tokenizer(tokenizer: Tokenizer) -> str:
    """The hash of all that a tokenizer writes when it is saved: tokens, rules, chat template."""
    found = hashlib.sha256(type(tokenizer).__name__.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(file for file in Path(folder).rglob("*") if file.is_file()):
            content = file.read_bytes()
            found.update(f"\n{file.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _is_export(work: Work[R, E], part: DataFile) -> bool:
    first = next(part.rows(raise_error), None) if work.convert else None
    return first is not None and is_export(first[0])


def _batches(work: Work[R, E], part: DataFile) -> Iterator[list[Encoded[E]]]:
    batch: list[R] = []
    characters = 0
    for record in _records(work, part):
        size = sum(len(prompt) + len(response) for prompt, response in sequences(record))
        if batch and (len(batch) == BATCH_ROWS or characters + size > BATCH_CHARACTERS):
            yield _encoded_batch(work, part, batch)
            batch, characters = [], 0
        batch.append(record)
        characters += size
    yield _encoded_batch(work, part, batch)


def _records(work: Work[R, E], part: DataFile) -> Iterator[R]:
    rows: Iterable[Row] = part.rows(raise_error)
    if work.convert:
        rows = work.convert(rows, part.name)
    for row, source in rows:
        yield work.from_row(row, source)


def _encoded_batch(work: Work[R, E], part: DataFile, batch: list[R]) -> list[Encoded[E]]:
    return [
        Encoded(
            record.source.removeprefix(part.name),
            work.digest(contamination.question(record)),
            outcome,
        )
        for record, outcome in zip(batch, work.encode(batch), strict=True)
    ]


def _shared(
    args: CommonArgs,
    work: Work[R, E],
    train: Source[E],
    is_train: NDArray[np.bool_],
    evaluation: Source[E],
    held: Places,
) -> NDArray[np.bool_]:
    """Which rows share a prompt or, plain texts, words with held-out ones; see `contamination`."""
    is_shared = np.isin(train.keys, evaluation.keys[held])
    count = int((is_shared & is_train).sum())
    if count:
        logger.info("data: %d training rows left out: their prompt is held out", count)
    if work.stage != "pretrain":
        return is_shared
    trained = np.isin(np.arange(len(train.table)), train.order[is_train & ~is_shared])
    known = np.isin(np.arange(len(evaluation.table)), evaluation.order[held])

    def write(sink: Any) -> None:
        found = contamination.sharing(_texts(work, train, trained), _texts(work, evaluation, known))
        batch = pa.RecordBatch.from_pydict({"row": np.flatnonzero(trained)[found]})
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    masks = hashlib.sha256(trained.tobytes() + known.tobytes()).hexdigest()
    key = {
        "format": FORMAT,
        "words": [contamination.NGRAM, contamination.COMMON],
        "content": [train.digests, evaluation.digests],
        "rows": masks,
    }
    what = "which texts share words with held-out ones"
    file = cached(key, what, write) if args.data_cache else in_memory(write)
    rows = pa.ipc.open_file(file).read_all().column("row").to_numpy()
    if len(rows):
        logger.info("data: %d training texts left out: %d words in a row are held out",
                    len(rows), contamination.NGRAM)  # fmt: skip
    return is_shared | np.isin(train.order, rows)


def _texts(work: Work[R, E], source: Source[E], is_chosen: NDArray[np.bool_]) -> Iterator[str]:
    """The chosen texts of a table's rows, read anew."""
    records = chain.from_iterable(_records(work, part) for part in source.parts)
    return (contamination.question(record) for record in compress(records, is_chosen))
