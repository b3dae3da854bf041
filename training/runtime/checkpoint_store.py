"""Checkpoints on disk: written to a staging folder, synced, checksummed, renamed; verified on read.

    checkpoints/step_000100/  the files that `write` made, and manifest.json with their checksums
    checkpoints/latest        the name of the newest one, updated last

One process writes. A damaged checkpoint is reported and the one before it is used.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
LATEST = "latest"
MANIFEST = "manifest.json"
VALUE_FILE = "value.json"  # its --best_metric, if it was evaluated
_NAME = re.compile(r"step_(\d{6,})(?:\.(\d+))?")


class CheckpointStore:
    """The checkpoints of one output_dir: the `keep` newest, and the `keep_best` of least value.

    Values of different metrics are not compared.
    """

    def __init__(
        self, output_dir: str | Path, *, keep: int, keep_best: int = 0, metric: str = ""
    ) -> None:
        self._root = Path(output_dir) / FOLDER
        self._keep = keep
        self._keep_best = keep_best
        self._metric = metric

    def save(self, step: int, write: Callable[[Path], None], value: float | None = None) -> Path:
        """Write and publish the checkpoint of `step`, and remove those no longer kept.

        Raises `OSError` if the disk is full or the folder is not writable. Then the older
        checkpoints are unharmed and nothing half-written is left.
        """
        target = self._root / f"step_{step:06d}"
        names = map(_parse_name, self._list_newest_first())
        if serials := [serial for other, serial in names if other == step]:
            # The earlier checkpoint of this step is kept until the new one is complete.
            target = target.with_name(f"{target.name}.{max(serials) + 1}")
        staging = self._root / f".{target.name}.writing"
        try:
            for abandoned in self._root.glob(".*.writing"):  # by a save that was killed
                shutil.rmtree(abandoned, ignore_errors=True)
            staging.mkdir(parents=True)
            write(staging)
            if value is not None:
                text = json.dumps({"metric": self._metric, "value": value}) + "\n"
                (staging / VALUE_FILE).write_text(text, encoding="utf-8")
            _write_manifest(staging)
            os.replace(staging, target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        try:
            _sync_folder(self._root)
            _replace_text(self._root / LATEST, target.name + "\n")
        except OSError as error:
            logger.warning("%s is saved, but not named in %s: %s", target, LATEST, error)
        self._remove_old(target)
        return target

    def find_newest(self) -> tuple[Path | None, list[str]]:
        """Return the newest undamaged checkpoint, if any, and what is wrong with newer ones."""
        problems: list[str] = []
        for folder in self._list_newest_first():
            problem = find_damage(folder)
            if not problem:
                return folder, problems
            problems.append(f"{folder}: {problem}")
        return None, problems

    def is_among_best(self, value: float) -> bool:
        """True if a checkpoint of this value would be kept for it."""
        values = [self._read_value(folder) for folder in self._list_newest_first()]
        return sum(v is not None and v <= value for v in values) < self._keep_best

    def remove_newer(self, than: Path) -> None:
        """Remove the checkpoints after `than`, from which a run resumes."""
        for folder in self._list_newest_first():
            if _parse_name(folder) > _parse_name(than):
                shutil.rmtree(folder, ignore_errors=True)

    def _list_newest_first(self) -> list[Path]:
        """List the folders themselves: `latest` is only for people."""
        if not self._root.is_dir():
            return []
        folders = [path for path in self._root.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(folders, key=_parse_name, reverse=True)

    def _remove_old(self, saved: Path) -> None:
        """Keep the newest and the best up to `saved`, and one per step. Later steps are stale."""
        folders = self._list_newest_first()
        past = [folder for folder in folders if _parse_name(folder) <= _parse_name(saved)]
        last_of_step = {parse_step(folder): folder for folder in reversed(past)}
        newest = sorted(last_of_step.values(), key=_parse_name, reverse=True)
        kept = newest[: self._keep]
        valued = [
            (value, folder) for folder in past if (value := self._read_value(folder)) is not None
        ]
        kept += [folder for _, folder in sorted(valued, key=lambda p: p[0])[: self._keep_best]]
        for folder in folders:
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _read_value(self, folder: Path) -> float | None:
        try:
            content = json.loads((folder / VALUE_FILE).read_text(encoding="utf-8"))
            return float(content["value"]) if content["metric"] == self._metric else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _parse_name(folder: Path) -> tuple[int, int]:
    """Return the step, and the number among the checkpoints of this step."""
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder}: not a checkpoint's name (step_000100)")
    return int(match[1]), int(match[2] or 1)


def parse_step(folder: Path) -> int:
    """Return the step in a checkpoint folder's name; `ValueError` for another name."""
    return _parse_name(folder)[0]


def find_damage(folder: Path) -> str:
    """Describe what is wrong with a checkpoint, naming the file; empty if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): (int(of["bytes"]), str(of["sha256"])) for name, of in manifest.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    if not files:
        return f"{MANIFEST} names no file"
    problems = (_find_file_damage(folder, name, *expected) for name, expected in files.items())
    return next(filter(None, problems), "")


def _find_file_damage(folder: Path, name: str, size: int, digest: str) -> str:
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        return f"{MANIFEST} names {name!r}, which is outside"
    try:
        actual = path.stat().st_size
        if actual != size:
            return f"{name} has {actual} bytes instead of {size}"
        if _compute_sha256(path) != digest:
            return f"{name} is not as it was written (checksum)"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return ""


def _write_manifest(folder: Path) -> None:
    manifest = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        size = path.stat().st_size
        manifest[str(path.relative_to(folder))] = {"bytes": size, "sha256": _compute_sha256(path)}
    _replace_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    _sync_folder(folder)


def _compute_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _replace_text(path: Path, text: str) -> None:
    staging = path.with_name(f".{path.name}.writing")
    with staging.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
