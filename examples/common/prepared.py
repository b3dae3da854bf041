"""A prepared example: a folder of the cache with the data of every stage, whole or not there."""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.arguments.parsing import UserError, exit_with_user_error
from training.paths import cache_dir

log = logging.getLogger("prepare")

FORMAT = 1  # raise it when the files of any example change, and old ones are made again
MANIFEST = "manifest.json"

Row = dict[str, Any]


def folder_name(example: str, *, smoke: bool, seed: int) -> str:
    """The name of a version of an example, as in --data_path example:NAME."""
    return example + "_smoke" * smoke + f"_seed{seed}" * (seed != 0)


@contextmanager
def mistakes_reported(program: str) -> Iterator[None]:
    """What the user or the disk got wrong ends the program with one line."""
    try:
        yield
    except UserError as error:
        exit_with_user_error(program, str(error))
    except OSError as error:
        exit_with_user_error(
            program, f"{error}; the cache folder is {cache_dir()}: CLASSIC_RLHF_CACHE names another"
        )


def is_prepared(folder: Path) -> bool:
    """Whether the folder is whole: the manifest is there and every file has its size."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        return manifest["format"] == FORMAT and all(
            (folder / name).stat().st_size == size for name, size in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def put_in_cache(folder: Path, write: Callable[[Path], Row]) -> Row:
    """Let `write` fill a folder beside, then move that into place; return its manifest.

    `write` is given the folder and returns what the manifest says beside the format and the files.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        made = Path(name) / folder.name
        made.mkdir()
        manifest = {"format": FORMAT, **write(made), "files": _sizes(made)}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        _put_in_place(made, folder)
    return manifest


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _put_in_place(made: Path, folder: Path) -> None:
    if is_prepared(folder):  # another run was quicker
        return
    if folder.exists():
        log.warning("%s is incomplete or out of date; replacing it", folder)
        shutil.rmtree(folder)
    try:
        made.rename(folder)
    except OSError:
        if not is_prepared(folder):  # unless another run was quicker by a hair
            raise


def write_stages(folder: Path, stages: Mapping[str, Sequence[Row]]) -> None:
    """Write `<stage>.<split>.jsonl` for each entry."""
    for name, rows in stages.items():
        write_jsonl(folder / f"{name}.jsonl", rows)


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path, *, example: str) -> list[Row]:
    """The rows of one file of a prepared example."""
    if not path.exists():
        raise UserError(
            f"{path} is not there; run: python examples/{example}/prepare.py, "
            "or name another prepared folder with --example"
        )
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
