"""From what the user names as data (files, folders, examples, Hub data sets) to rows.

The one module that imports `datasets`. It does not know what the rows mean.
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.arguments.parsing import UserError
from training.arguments.paths import cache_dir, prepare_command
from training.data.files import SUFFIXES, Row, read_file

EXAMPLE = "example:"

# What data sets call their splits; the first that exists is taken.
SPLIT_NAMES = {
    "train": ("train",),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}

_SHARD = re.compile(r"-\d+-of-\d+$")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def read_rows(
    paths: Sequence[str],
    *,
    stage: str,
    split: str,
    weights: Sequence[float] | None = None,
    seed: int,
    convert: Callable[[list[Row], str], list[Row]] | None = None,
) -> list[Row]:
    """All rows of all paths, in order, each with its "path:line".

    A path is a file, a folder with `<split>.jsonl` (or another format) in it, "example:NAME", or
    the name of a Hub data set ("name" or "name:config"). A file is its own split: it is read
    whole, whatever `split` says (see `has_split`).

    A weight is relative to the path's own size: 2 takes each row twice, 0.5 a seeded half of the
    rows, 1.5 each row once and a half of them once more. At least one row of a path is taken.
    `convert` makes other rows of a path's rows first.
    """
    if not paths:
        raise UserError("--data_path names no data")
    if weights and len(weights) != len(paths):
        raise UserError(
            f"--data_weights needs one number for each of the {len(paths)} paths of --data_path, "
            f"got {len(weights)}"
        )
    _check_not_twice(paths)
    rows: list[Row] = []
    for path, weight in zip(paths, weights or [1.0] * len(paths), strict=True):
        found = _read_source(path, stage, split)
        rows += _weighted(convert(found, path) if convert else found, weight, f"{seed}:{path}")
    return rows


def has_split(path: str, *, stage: str, split: str) -> bool:
    """Whether `path` brings a split of its own; a single file never does."""
    if path.startswith(EXAMPLE):
        return _example_file(path, stage, split).is_file()
    if Path(path).expanduser().is_dir():
        return bool(_split_files(path, stage, split))
    if _looks_like_a_file(path):
        return False
    return any(name in _hub_splits(path) for name in SPLIT_NAMES[split])


def _read_source(path: str, stage: str, split: str) -> list[Row]:
    if path.startswith(EXAMPLE):
        return _example_rows(path, stage, split)
    local = Path(path).expanduser()
    if local.is_dir():
        return _folder_rows(path, stage, split)
    if local.exists():
        return read_file(path, stage=stage)
    if _looks_like_a_file(path):
        raise UserError(f"{path}: no such file or folder")
    return _hub_rows(path, split)


def _looks_like_a_file(path: str) -> bool:
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


def _weighted(rows: list[Row], weight: float, seed: str) -> list[Row]:
    if not (weight > 0 and math.isfinite(weight)):
        raise UserError(f"--data_weights must be positive, got {weight}")
    whole, part = divmod(max(round(weight * len(rows)), 1), len(rows))
    extra = random.Random(seed).sample(range(len(rows)), part)
    return rows * whole + [rows[i] for i in sorted(extra)]


def _example_file(path: str, stage: str, split: str) -> Path:
    name = path.removeprefix(EXAMPLE)
    if not re.fullmatch(r"\w+", name):
        raise UserError(f"{path}: write example:NAME, for instance example:movie_reviews")
    return cache_dir() / name / f"{stage}.{split}.jsonl"


def _example_rows(path: str, stage: str, split: str) -> list[Row]:
    file = _example_file(path, stage, split)
    if file.is_file():
        return read_file(str(file), stage=stage)
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


def _folder_rows(folder: str, stage: str, split: str) -> list[Row]:
    files = _split_files(folder, stage, split)
    if not files:
        raise UserError(
            f"{folder}: the folder has no {split}.jsonl (nor .json, .csv, .tsv, .parquet, .txt); "
            "name the file itself, or rename it"
        )
    return [row for file in files for row in read_file(str(file), stage=stage)]


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


def _hub_rows(path: str, split: str) -> list[Row]:
    import datasets

    splits = _hub_splits(path)
    name = next((name for name in SPLIT_NAMES[split] if name in splits), None)
    if name is None:
        raise UserError(f"{path}: the data set has no {split} split, only {', '.join(splits)}")
    try:
        rows: list[dict[str, Any]] = datasets.load_dataset(*_hub_parts(path), split=name).to_list()
    except Exception as error:  # the Hub's client raises the errors of several libraries
        raise _hub_error(path, error) from error
    if not rows:
        raise UserError(f"{path}: the {name} split has no rows")
    return [(row, f"{path}:{name} row {n}") for n, row in enumerate(rows, start=1)]
