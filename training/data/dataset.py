"""The rows of all data paths: encode each file, mix by weight, hold out, decontaminate, report."""

import hashlib
import logging
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any, Generic

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.data import contamination
from training.data.build_tables import FORMAT, R, RowEncoder, encode_file, read_records
from training.data.cache import build_in_memory, load_or_build
from training.data.encode import E, EncodeReport
from training.data.sources import DataFile, find_data_files, has_split
from training.data.tables import Places, Table, TableView
from training.draws import hash_key, make_random

logger = logging.getLogger(__name__)

Keys = NDArray[np.uint64]  # hashes of prompts


@dataclass(frozen=True)
class EncodedData(Generic[E]):
    """The encoded rows of some data paths; `order` lists the rows of `table` path by path."""

    table: Table[E]
    files: list[DataFile]
    digests: list[str]  # of the files' content
    order: Places
    first_place: int  # number of the first of `order` in all data

    @property
    def keys(self) -> Keys:
        """The hashed prompts of the rows of `order`."""
        return np.asarray(self.table.read_numbers("key")[self.order], np.uint64)

    def select(self, places: Places, limit: str) -> tuple[TableView[E], EncodeReport]:
        """Return the rows at these places of `order` that hold any tokens, and a report of all."""
        rows = self.order[places]
        is_kept = self.table.read_numbers("longest")[rows] > 0
        tokens, cut, dropped_pairs = (
            int(self.table.read_numbers(name)[rows].sum(dtype=np.int64))
            for name in ("tokens", "cut", "dropped_pairs")
        )
        dropped = int((~is_kept).sum())
        report = EncodeReport(len(rows), cut, dropped, tokens, limit, dropped_pairs)
        return TableView(self.table, rows[is_kept], places[is_kept] + self.first_place), report


def load_rows(args: CommonArgs, encoder: RowEncoder[R, E]) -> tuple[TableView[E], TableView[E]]:
    """Load training and held-out rows.

    Held-out data is --eval_data_path if given, else the data's own dev split if every path has
    one, else a share of the prompts, which are then no training data.
    """
    train = encode_paths(args, encoder, args.data_path, "train", weights=args.data_weights)
    has_dev = all(has_split(path, stage=encoder.stage, split="dev") for path in args.data_path)
    paths = args.eval_data_path or (args.data_path if has_dev else [])
    if paths:
        evaluation = encode_paths(args, encoder, paths, "dev", first_place=len(train.order))
        is_train = np.ones(len(train.order), bool)
        held_out = np.arange(len(evaluation.order))
    else:
        evaluation = train
        is_held_out = choose_held_out(train.keys, eval_fraction=args.eval_fraction, seed=args.seed)
        is_train, held_out = ~is_held_out, np.flatnonzero(is_held_out)
    if args.decontaminate and len(held_out):
        is_train &= ~_find_leaks(args, encoder, train, is_train, evaluation, held_out)
        if not is_train.any():
            raise UserError("--eval_data_path holds every prompt of --data_path; nothing to train")
    rows, report = train.select(np.flatnonzero(is_train), encoder.limit)
    logger.info("data: %s", report.summarize())
    if not len(held_out):
        return rows, TableView(evaluation.table, held_out, held_out)
    held_rows, report = evaluation.select(held_out[: args.max_eval_rows or None], encoder.limit)
    logger.info("held out: %s", report.summarize())
    return rows, held_rows


def encode_paths(
    args: CommonArgs,
    encoder: RowEncoder[R, E],
    paths: Sequence[str],
    split: str,
    *,
    weights: Sequence[float] = (),
    first_place: int = 0,
) -> EncodedData[E]:
    """Encode the files behind these paths, and repeat each path's rows by its weight."""
    files = find_data_files(paths, stage=encoder.stage, split=split)
    digests = [file.digest() for file in files]
    buffers = [
        encode_file(encoder, file, digest, use_cache=args.data_cache)
        for file, digest in zip(files, digests, strict=True)
    ]
    table = Table(encoder.layout, [file.name for file in files], buffers)
    order, start = [], 0
    for path, weight in zip(paths, weights or [1.0] * len(paths), strict=True):
        mine = [index for index, file in enumerate(files) if file.path == path]
        count = sum(table.sizes[index] for index in mine)
        # By content, so that the same files under another path give the same rows.
        draw = make_random("weight", args.seed, *(digests[index] for index in mine))
        order.append(start + repeat_by_weight(count, weight, draw))
        start += count
    return EncodedData(table, files, digests, np.concatenate(order), first_place)


def _find_leaks(
    args: CommonArgs,
    encoder: RowEncoder[R, E],
    train: EncodedData[E],
    is_train: NDArray[np.bool_],
    evaluation: EncodedData[E],
    held_out: Places,
) -> NDArray[np.bool_]:
    """Mark training rows that share a prompt or, of plain texts, words with held-out ones."""
    is_leak = np.isin(train.keys, evaluation.keys[held_out])
    count = int((is_leak & is_train).sum())
    if count:
        logger.info("data: %d training rows left out: their prompt is held out", count)
    if encoder.stage != "pretrain":
        return is_leak
    trained = np.isin(np.arange(len(train.table)), train.order[is_train & ~is_leak])
    known = np.isin(np.arange(len(evaluation.table)), evaluation.order[held_out])

    def build(sink: Any) -> None:
        shared = contamination.find_shared_texts(
            _read_texts(encoder, train, trained), _read_texts(encoder, evaluation, known)
        )
        batch = pa.RecordBatch.from_pydict({"row": np.flatnonzero(trained)[shared]})
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    key = {
        "format": FORMAT,
        "words": [contamination.NGRAM, contamination.COMMON],
        "content": [train.digests, evaluation.digests],
        "rows": hashlib.sha256(trained.tobytes() + known.tobytes()).hexdigest(),
    }
    what = "which texts share words with held-out ones"
    buffer = load_or_build(key, what, build) if args.data_cache else build_in_memory(build)
    rows = pa.ipc.open_file(buffer).read_all().column("row").to_numpy()
    if len(rows):
        logger.info("data: %d training texts left out: %d words in a row are held out",
                    len(rows), contamination.NGRAM)  # fmt: skip
    return is_leak | np.isin(train.order, rows)


def _read_texts(
    encoder: RowEncoder[R, E], data: EncodedData[E], is_chosen: NDArray[np.bool_]
) -> Iterator[str]:
    """Read the chosen texts again, since a table holds only their tokens."""
    records = chain.from_iterable(read_records(encoder, file) for file in data.files)
    return map(contamination.extract_prompt, compress(records, is_chosen))


def repeat_by_weight(count: int, weight: float, draw: random.Random) -> Places:
    """Repeat the `count` rows of a data path by its weight.

    2 takes each row twice, 0.5 a random half of the rows, 1.5 each row once and then half of them
    again. At least one row is taken.
    """
    if not (weight > 0 and math.isfinite(weight)):
        raise UserError(f"--data_weights must be positive, got {weight}")
    whole, part = divmod(max(round(weight * count), 1), count)
    extra = draw.sample(range(count), part)
    return np.concatenate([np.tile(np.arange(count), whole), np.array(sorted(extra), np.int64)])


def choose_held_out(
    keys: NDArray[np.uint64], *, eval_fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Return a mask of the held-out rows; the hash of (seed, prompt) decides for each prompt.

    A prompt keeps its side when other rows are added. With two prompts or more neither side is
    empty, unless `eval_fraction` is 0: then nothing is held out.
    """
    if not 0 <= eval_fraction < 1:
        raise UserError(f"--eval_fraction must be at least 0 and below 1, got {eval_fraction}")
    prompts, prompt_of_row = np.unique(keys, return_inverse=True)
    if eval_fraction == 0 or len(prompts) < 2:  # one prompt cannot be on both sides
        return np.zeros(len(keys), bool)
    draws = _draw_uniform(prompts, seed)
    chosen = draws < eval_fraction
    if not chosen.any():
        chosen[draws.argmin()] = True
    elif chosen.all():
        chosen[draws.argmax()] = False
    return np.asarray(chosen[prompt_of_row], bool)


def _draw_uniform(prompts: Keys, seed: int) -> NDArray[np.float64]:
    """Draw a number in [0, 1) for each key: splitmix64's finalizer of key plus hashed seed."""
    mixed = prompts + np.uint64(hash_key(seed))  # all modulo 2**64
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
