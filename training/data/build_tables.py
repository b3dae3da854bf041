"""One data file to one Arrow table: read, check, encode and write its rows, once per content."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa

from training.arguments.parsing import UserError
from training.data.annotation.export import is_export_start
from training.data.cache import build_in_memory, load_or_build
from training.data.chat import TemplateTokenizer
from training.data.contamination import extract_prompt, hash_prompt
from training.data.encode import E, Outcome
from training.data.files import Row, raise_error
from training.data.records import Record, list_sequences
from training.data.sources import Convert, DataFile
from training.data.tables import TableFormat

R = TypeVar("R", bound=Record)

FORMAT = 2  # of tables and keys; a new number rebuilds all cached tables
BATCH_ROWS = 512  # encoded together, fewer where rows are long
BATCH_CHARACTERS = 500_000


@dataclass(frozen=True)
class RowEncoder(Generic[R, E]):
    """How one stage's rows become encoded rows, and everything that the result depends on."""

    stage: str
    parse: Callable[[Any, str], R]  # of a row and its "path:line"
    encode: Callable[..., list[Outcome[Any]]]  # of records and the tokenizer, with `settings`
    layout: TableFormat[E]
    tokenizer: TemplateTokenizer
    settings: Mapping[str, Any]
    limit: str  # the flag that sets the length, with its value
    convert: Convert | None = None  # turns a Label Studio export into rows
    hash_prompt: Callable[[str], int] = hash_prompt
    variant: str = ""  # names `parse` and `hash_prompt` where they are not the stage's usual ones


def encode_file(
    encoder: RowEncoder[R, E], file: DataFile, digest: str, *, use_cache: bool
) -> pa.Buffer:
    """Return the Arrow file of a data file's encoded rows, from the cache if there is one.

    `digest` is of the file's content. Exports are never cached: each run logs their account.
    """
    first = next(file.read(raise_error), None) if encoder.convert else None
    is_export = first is not None and is_export_start(first, file.name)

    def build(sink: Any) -> None:
        build_table(encoder, file, sink, is_export=is_export)
        if file.digest() != digest:
            raise UserError(f"{file.name}: changed while it was read; run again")

    if is_export or not use_cache:
        return build_in_memory(build)
    key = {
        "format": FORMAT,
        "content": digest,
        "rows": [encoder.stage, encoder.variant],
        "layout": str(encoder.layout.schema),
        "settings": dict(encoder.settings),
        "tokenizer": hash_tokenizer(encoder.tokenizer.tokenizer),
        "templates": [encoder.tokenizer.prompt_template, encoder.tokenizer.chat_template],
        "versions": [version(name) for name in ("transformers", "tokenizers", "pyarrow")],
    }
    return load_or_build(key, file.name, build)


def build_table(
    encoder: RowEncoder[R, E], file: DataFile, sink: Any, *, is_export: bool = False
) -> None:
    """Read, check, encode and write the rows of a file; memory holds one batch of them."""
    schema = encoder.layout.schema
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in _split_batches(read_records(encoder, file, is_export=is_export)):
            outcomes = encoder.encode(batch, encoder.tokenizer, **encoder.settings)
            rows = [
                encoder.layout.pack_row(
                    record.source.removeprefix(file.name),
                    encoder.hash_prompt(extract_prompt(record)),
                    outcome,
                )
                for record, outcome in zip(batch, outcomes, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def read_records(
    encoder: RowEncoder[R, E], file: DataFile, *, is_export: bool = False
) -> Iterator[R]:
    """Read and check the rows of a file, one by one."""
    rows: Iterable[Row] = file.read(raise_error)
    if is_export and encoder.convert:
        rows = encoder.convert(rows, file.name)
    for row, source in rows:
        yield encoder.parse(row, source)


def _split_batches(records: Iterable[R]) -> Iterator[list[R]]:
    batch: list[R] = []
    characters = 0
    for record in records:
        size = sum(len(prompt) + len(response) for prompt, response in list_sequences(record))
        if batch and (len(batch) == BATCH_ROWS or characters + size > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(record)
        characters += size
    if batch:
        yield batch


def hash_tokenizer(tokenizer: Any) -> str:
    """Hash all that a tokenizer writes when it is saved: tokens, rules, chat template."""
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(file for file in Path(folder).rglob("*") if file.is_file()):
            content = file.read_bytes()
            digest.update(f"\n{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
