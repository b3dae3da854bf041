"""From what the user names as data (files, folders, examples, Hub data sets) to rows.

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

# What data sets call their splits; the first that exists is taken.
SPLIT_NAMES = {
    "train": ("train",),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}

Convert = Callable[[Iterable[Row], str], Iterable[Row]]  # of a part's rows and its name

_SHARD = re.compile(r"-\d+-of-\d+$")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


@dataclass(frozen=True)
class DataFile:
    """One file, or one split of a Hub data set, to be read as often as needed."""

    path: str  # what the user named
    name: str  # what the sources of its rows start with
    read: Callable[[Fail], Iterator[Row]]
    digest: Callable[[], str]  # of its content


def find_data_files(paths: Sequence[str], *, stage: str, split: str) -> list[DataFile]:
    """What there is to read behind all paths, in order.

    A path is a file, a folder with `<split>.jsonl` (or another format) in it, "example:NAME", or
    the name of a Hub data set ("name" or "name:config"). A file is its own split: it is read
    whole, whatever `split` says (see `has_split`).
    """
    if not paths:
        raise UserError("--data_path names no data")
    _check_not_twice(paths)
    return [part for path in paths for part in _parts(path, stage, split)]


def read_rows(
    paths: Sequence[str],
    *,
    stage: str,
    split: str,
    convert: Convert | None = None,
    fail: Fail = raise_error,
) -> Iterator[Row]:
    """All rows of all paths, in order, each with its "path:line".

    `convert` makes other rows of a part's rows first.
    """
    for part in find_data_files(paths, stage=stage, split=split):
        rows = part.read(fail)
        yield from convert(rows, part.name) if convert else rows


def has_split(path: str, *, stage: str, split: str) -> bool:
    """Whether `path` brings a split of its own; a single file never does."""
    if path.startswith(EXAMPLE):
        return _example_file(path, stage, split).is_file()
    if Path(path).expanduser().is_dir():
        return bool(_split_files(path, stage, split))
    if is_local_path(path):
        return False
    return any(name in _hub_splits(path) for name in SPLIT_NAMES[split])


def _parts(path: str, stage: str, split: str) -> list[DataFile]:
    if path.startswith(EXAMPLE):
        return [_file_part(path, _prepared_file(path, stage, split), stage)]
    local = Path(path).expanduser()
    if local.is_dir():
        return [_file_part(path, str(file), stage) for file in _folder_files(path, stage, split)]
    if local.exists():
        return [_file_part(path, path, stage)]
    if is_local_path(path):
        raise UserError(f"{path}: no such file or folder")
    return [_hub_part(path, split)]


def _file_part(path: str, file: str, stage: str) -> DataFile:
    def rows(fail: Fail) -> Iterator[Row]:
        return iterate_file(file, stage=stage, fail=fail)

    def digest() -> str:
        found = hashlib.sha256(Path(file).suffix.lower().encode())
        try:
            with Path(file).expanduser().open("rb") as content:
                while block := content.read(2**20):
                    found.update(block)
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror}") from error
        return found.hexdigest()

    return DataFile(path, file, rows, digest)


def is_local_path(path: str) -> bool:
    """Whether a path can only mean a file or folder, not a data set of the Hub."""
    local = Path(path)
    return (
        local.expanduser().exists()
        or local.suffix.lower() in SUFFIXES
        or _HUB_NAME.fullmatch(path) is None
        or path.startswith(".")
    )


def _check_not_twice(paths: Sequence[str]) -> None:
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


def _example_file(path: str, stage: str, split: str) -> Path:
    name = path.removeprefix(EXAMPLE)
    if not re.fullmatch(r"\w+", name):
        raise UserError(f"{path}: write example:NAME, for instance example:movie_reviews")
    return cache_dir() / name / f"{stage}.{split}.jsonl"


def _prepared_file(path: str, stage: str, split: str) -> str:
    file = _example_file(path, stage, split)
    if file.is_file():
        return str(file)
    command = prepare_command(file.parent.name)
    if any(file.parent.glob("*.jsonl")):
        raise UserError(f"{path} has no {file.name} in {file.parent}; see {command} --help")
    raise UserError(f"{path} is not prepared; run: {command}")


def _split_files(folder: str, stage: str, split: str) -> list[Path]:
    """The files of one split: `<stage>.<split>` before `<split>`; shards in order."""
    files = sorted(
        file
        for file in Path(folder).expanduser().iterdir()
        if file.is_file() and file.suffix.lower() in SUFFIXES
    )
    for name in SPLIT_NAMES[split]:
        for stem in (f"{stage}.{name}", name):
            found = [file for file in files if _SHARD.sub("", file.stem) == stem]
            if len(found) > 1 and not all(_SHARD.search(file.stem) for file in found):
                names = ", ".join(file.name for file in found)
                raise UserError(f"{folder}: more than one file for {stem}: {names}; keep one")
            if found:
                return found
    return []


def _folder_files(folder: str, stage: str, split: str) -> list[Path]:
    files = _split_files(folder, stage, split)
    if not files:
        raise UserError(
            f"{folder}: the folder has no {split}.jsonl (nor .json, .csv, .tsv, .parquet, .txt); "
            "name the file itself, or rename it"
        )
    return files


def _hub_error(name: str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return UserError(
        f"{name}: no such file or folder, and as a Hub data set it could not be loaded: {reason} "
        "(without a network, name a file)"
    )


def _hub_parts(path: str) -> tuple[str, str | None]:
    name, _, config = path.partition(":")
    return name, config or None


def _hub_splits(path: str) -> list[str]:
    import datasets

    try:
        return [str(name) for name in datasets.get_dataset_split_names(*_hub_parts(path))]
    except Exception as error:  # the Hub's client raises the errors of several libraries
        raise _hub_error(path, error) from error


def _hub_part(path: str, split: str) -> DataFile:
    import datasets

    splits = _hub_splits(path)
    name = next((name for name in SPLIT_NAMES[split] if name in splits), None)
    if name is None:
        raise UserError(f"{path}: the data set has no {split} split, only {', '.join(splits)}")
    try:
        data: Any = datasets.load_dataset(*_hub_parts(path), split=name)
    except Exception as error:  # the Hub's client raises the errors of several libraries
        raise _hub_error(path, error) from error

    def rows(fail: Fail) -> Iterator[Row]:
        if not len(data):
            fail(UserError(f"{path}: the {name} split has no rows"))
        for number, row in enumerate(data, start=1):  # from the library's files on disk
            yield dict(row), f"{path}:{name} row {number}"

    # The fingerprint that the library's own cache goes by.
    return DataFile(path, f"{path}:{name}", rows, lambda: f"{data._fingerprint}")
