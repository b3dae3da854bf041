"""Prepare an example: a folder of the cache with the data of every stage, complete or absent."""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.arguments.parsing import UserError, arg, exit_with_user_error, parse_args
from training.paths import cache_dir

log = logging.getLogger("prepare")

FORMAT = 1  # raise it when the files of any example change, so that old folders are replaced
MANIFEST = "manifest.json"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PrepareArgs:
    smoke: bool = arg(False, "Prepare a small version, example:<name>_smoke.")
    seed: int = arg(0, "Seed of the split; if not 0, the version is example:<name>_seed<N>.")


def run_preparation(example: str, prepare: Callable[[Path, PrepareArgs], Row]) -> None:
    """Have `prepare` fill the example's folder and return its manifest, unless it is complete."""
    args = parse_args(PrepareArgs)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = example + "_smoke" * args.smoke + f"_seed{args.seed}" * (args.seed != 0)
    folder = cache_dir() / name
    with report_mistakes("prepare.py"):
        if not is_prepared(folder):
            manifest = prepare(folder, args)
            log.info("%s", json.dumps(manifest["counts"], indent=1))
    log.info("example:%s is ready in %s", name, folder)


@contextmanager
def report_mistakes(program: str) -> Iterator[None]:
    """End the program with one line on a mistake of the user or an error of the disk."""
    try:
        yield
    except UserError as error:
        exit_with_user_error(program, str(error))
    except OSError as error:
        exit_with_user_error(
            program, f"{error}; the cache folder is {cache_dir()}: CLASSIC_RLHF_CACHE names another"
        )


def is_prepared(folder: Path) -> bool:
    """True if the folder has a manifest of this format and every file in it has its size."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        return manifest["format"] == FORMAT and all(
            (folder / name).stat().st_size == size for name, size in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def put_in_cache(folder: Path, write: Callable[[Path], Row]) -> Row:
    """Have `write` fill a temporary folder, then rename it to `folder`; returns the manifest.

    `write` returns the entries of the manifest other than the format and the files.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        made = Path(name) / folder.name
        made.mkdir()
        manifest = {"format": FORMAT, **write(made), "files": _measure_files(made)}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        _move(made, folder)
    return manifest


def _measure_files(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _move(made: Path, folder: Path) -> None:
    if is_prepared(folder):  # another run was quicker
        return
    if folder.exists():
        log.warning("%s is incomplete or out of date; replacing it", folder)
        shutil.rmtree(folder)
    try:
        made.rename(folder)
    except OSError:
        if not is_prepared(folder):  # unless another run has just put it there
            raise


def write_stages(folder: Path, stages: Mapping[str, Sequence[Row]]) -> None:
    """Write `<stage>.<split>.jsonl` for each entry."""
    for name, rows in stages.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def list_prompts(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of stage 3: each prompt of these demonstrations once."""
    by_prompt = {row["prompt"]: row for row in rows}
    return [{k: v for k, v in row.items() if k != "response"} for row in by_prompt.values()]


def read_jsonl(path: Path, *, example: str) -> list[Row]:
    """Read one file of a prepared example."""
    if not path.exists():
        raise UserError(
            f"{path} is not there; run: python examples/{example}/prepare.py, "
            "or name another prepared folder with --example"
        )
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
