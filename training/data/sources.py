"""Find and read what a user may name as data: files, folders, examples, Hub data sets.

The one module that imports `datasets`. It does not know what the rows mean.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.arguments.parsing import UserError
from training.data.files import SUFFIXES, Fail, Row, iterate_file, raise_error
from training.paths import cache_dir, prepare_command

EXAMPLE = "example:"

# Usual names of splits; the first that exists is taken.
SPLIT_NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}

Convert = Callable[[Iterable[Row], str], Iterable[Row]]  # of a file's rows and its name

_SHARD = re.compile(r"-\d+-of-\d+$")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


@dataclass(frozen=True)
class DataFile:
    """One file, or one split of a Hub data set, to be read as often as needed."""

    path: str  # as the user typed it
    name: str  # the start of its rows' sources
    read: Callable[[Fail], Iterator[Row]]
    digest: Callable[[], str]  # of its content


def find_data_files(paths: Sequence[str], *, stage: str, split: str) -> list[DataFile]:
    """Find the files behind all paths, in order.

    A path is a file, a folder with `<split>.jsonl` (or another format) in it, "example:NAME", or
    the name of a Hub data set ("name" or "name:config"). A file is read whole for any `split`.
    """
    if not paths:
        raise UserError("--data_path names no data")
    seen: set[str] = set()
    for path in paths:
        local = Path(path).expanduser()
        key = str(local.resolve()) if local.exists() else path
        if key in seen:
            raise UserError(
                f"--data_path names {path} twice; name it once, with --data_weights 2 if its rows "
                "should count twice"
            )
        seen.add(key)
    return [file for path in paths for file in _find_files(path, stage, split)]


def read_rows(
    paths: Sequence[str],
    *,
    stage: str,
    split: str,
    convert: Convert | None = None,
    fail: Fail = raise_error,
) -> Iterator[Row]:
    """Read all rows of all paths, in order, each with its "path:line".

    `convert` turns each file's rows into other rows.
    """
    for file in find_data_files(paths, stage=stage, split=split):
        rows = file.read(fail)
        yield from convert(rows, file.name) if convert else rows


def has_split(path: str, *, stage: str, split: str) -> bool:
    """True if `path` has this split; a single file has no splits."""
    if path.startswith(EXAMPLE):
        return _name_example(path, stage, split).is_file()
    if Path(path).expanduser().is_dir():
        return bool(_split_files(path, stage, split))
    if is_local_path(path):
        return False
    return any(name in _list_hub_splits(path) for name in SPLIT_NAMES[split])


def _find_files(path: str, stage: str, split: str) -> list[DataFile]:
    if path.startswith(EXAMPLE):
        return [_open_file(path, _find_example(path, stage, split), stage)]
    local = Path(path).expanduser()
    if local.is_dir():
        files = _split_files(path, stage, split)
        if not files:
            raise UserError(
                f"{path}: the folder has no {split}.jsonl (nor .json, .csv, .tsv, .parquet, "
                ".txt); name the file itself, or rename it"
            )
        return [_open_file(path, str(file), stage) for file in files]
    if local.exists():
        return [_open_file(path, path, stage)]
    if is_local_path(path):
        raise UserError(f"{path}: no such file or folder")
    return [_open_hub_split(path, split)]


def _open_file(path: str, file: str, stage: str) -> DataFile:
    def hash_content() -> str:
        digest = hashlib.sha256(Path(file).suffix.lower().encode())
        try:
            with Path(file).expanduser().open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror}") from error
        return digest.hexdigest()

    return DataFile(
        path, file, lambda fail: iterate_file(file, stage=stage, fail=fail), hash_content
    )


def is_local_path(path: str) -> bool:
    """True if a path can only mean a file or folder, not a Hub data set."""
    local = Path(path)
    return (
        local.expanduser().exists()
        or local.suffix.lower() in SUFFIXES
        or _HUB_NAME.fullmatch(path) is None
        or path.startswith(".")
    )


def _name_example(path: str, stage: str, split: str) -> Path:
    name = path.removeprefix(EXAMPLE)
    if not re.fullmatch(r"\w+", name):
        raise UserError(f"{path}: write example:NAME, for instance example:movie_reviews")
    return cache_dir() / name / f"{stage}.{split}.jsonl"


def _find_example(path: str, stage: str, split: str) -> str:
    file = _name_example(path, stage, split)
    if file.is_file():
        return str(file)
    command = prepare_command(file.parent.name)
    if any(file.parent.glob("*.jsonl")):
        raise UserError(f"{path} has no {file.name} in {file.parent}; see {command} --help")
    raise UserError(f"{path} is not prepared; run: {command}")


def _split_files(folder: str, stage: str, split: str) -> list[Path]:
    """Find the files of one split: `<stage>.<split>` before `<split>`; shards in order."""
    files = sorted(
        file
        for file in Path(folder).expanduser().iterdir()
        if file.is_file() and file.suffix.lower() in SUFFIXES
    )
    for name in SPLIT_NAMES[split]:
        for stem in (f"{stage}.{name}", name):
            matches = [file for file in files if _SHARD.sub("", file.stem) == stem]
            if len(matches) > 1 and not all(_SHARD.search(file.stem) for file in matches):
                names = ", ".join(file.name for file in matches)
                raise UserError(f"{folder}: more than one file for {stem}: {names}; keep one")
            if matches:
                return matches
    return []


def _ask_hub(function: str, path: str, **options: str) -> Any:
    import datasets

    name, _, config = path.partition(":")
    try:
        return getattr(datasets, function)(name, config or None, **options)
    except Exception as error:  # the Hub's client raises the errors of several libraries
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{path}: no such file or folder, and as a Hub data set it could not be loaded: "
            f"{reason} (without a network, name a file)"
        ) from error


def _list_hub_splits(path: str) -> list[str]:
    return [str(name) for name in _ask_hub("get_dataset_split_names", path)]


def _open_hub_split(path: str, split: str) -> DataFile:
    splits = _list_hub_splits(path)
    name = next((name for name in SPLIT_NAMES[split] if name in splits), None)
    if name is None:
        raise UserError(f"{path}: the data set has no {split} split, only {', '.join(splits)}")
    data = _ask_hub("load_dataset", path, split=name)

    def read(fail: Fail) -> Iterator[Row]:
        if not len(data):
            fail(UserError(f"{path}: the {name} split has no rows"))
        for number, row in enumerate(data, start=1):  # from the library's files on disk
            yield dict(row), f"{path}:{name} row {number}"

    # The library's own cache goes by this fingerprint.
    return DataFile(path, f"{path}:{name}", read, lambda: f"{data._fingerprint}")
