"""Checkpoints on disk: written beside, synced, checksummed, renamed; verified before they are read.

    checkpoints/step_000100/  the files that `write` made, and manifest.json with their checksums
    checkpoints/latest        the newest one's name, moved last

One process writes. A damaged checkpoint is named and the one before it is taken.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
LATEST = "latest"
MANIFEST = "manifest.json"
VALUE_FILE = "value.json"  # of its evaluation, by which metric; not all have one
_NAME = re.compile(r"step_(\d{6,})(?:\.(\d+))?")
_CHUNK = 2**20


@dataclass(frozen=True)
class Found:
    """The checkpoint to go on from, if any, and what was wrong with newer ones."""

    folder: Path | None
    problems: list[str] = field(default_factory=list)


class CheckpointStore:
    """The checkpoints of one output_dir: the `keep` newest, and the `keep_best` of least value.

    Values of another `metric` than this one are not compared.
    """

    def __init__(
        self, output_dir: str | Path, *, keep: int, keep_best: int = 0, metric: str = ""
    ) -> None:
        self._root = Path(output_dir) / FOLDER
        self._keep = keep
        self._keep_best = keep_best
        self._metric = metric

    def save(self, step: int, write: Callable[[Path], None], value: float | None = None) -> Path:
        """Write and publish the checkpoint of `step`; those that are not kept any more go.

        Raises `OSError` where the disk is full or the folder cannot be written; what was there
        before is still there then, and nothing half-written.
        """
        target = self._free_name(step)
        staging = self._root / f".{target.name}.writing"
        try:
            for remains in self._root.glob(".*.writing"):  # of a save that was killed
                shutil.rmtree(remains, ignore_errors=True)
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
        self._remove_old(kept=target)
        return target

    def newest(self) -> Found:
        """The newest checkpoint whose every file is as it was written."""
        problems: list[str] = []
        for folder in self._by_age():
            problem = damage(folder)
            if not problem:
                return Found(folder, problems)
            problems.append(f"{folder}: {problem}")
        return Found(None, problems)

    def is_among_best(self, value: float) -> bool:
        """Whether a checkpoint of this value would be kept for it."""
        kept = [known for folder in self._by_age() if (known := self._value_of(folder)) is not None]
        return sum(known <= value for known in kept) < self._keep_best

    def remove_newer(self, than: Path) -> None:
        """Remove the checkpoints after `than`: a run that goes on from it gives them up."""
        for folder in self._by_age():
            if _age(folder) > _age(than):
                shutil.rmtree(folder, ignore_errors=True)

    def _free_name(self, step: int) -> Path:
        """`step_000100`, or `step_000100.2`, ... where the run was there before.

        What is there stays until the new one is whole.
        """
        base = self._root / f"step_{step:06d}"
        serials = [_age(folder)[1] for folder in self._by_age() if step_of(folder) == step]
        return base.with_name(f"{base.name}.{max(serials) + 1}") if serials else base

    def _by_age(self) -> list[Path]:
        """Newest first. `latest` is for people; what counts is which folders are whole."""
        if not self._root.is_dir():
            return []
        folders = [path for path in self._root.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(folders, key=_age, reverse=True)

    def _remove_old(self, kept: Path) -> None:
        """Those of later steps than `kept` are of a past given up; of one step one is enough."""
        past = [folder for folder in self._by_age() if _age(folder) <= _age(kept)]
        steps = {step_of(folder): folder for folder in reversed(past)}  # the last of each
        newest = sorted(steps.values(), key=_age, reverse=True)
        stays = newest[: self._keep]
        valued = [
            (value, folder) for folder in past if (value := self._value_of(folder)) is not None
        ]
        best = sorted(valued, key=lambda pair: pair[0])[: self._keep_best]
        stays += [folder for _, folder in best]
        for folder in self._by_age():
            if folder not in stays:
                shutil.rmtree(folder, ignore_errors=True)

    def _value_of(self, folder: Path) -> float | None:
        try:
            found = json.loads((folder / VALUE_FILE).read_text(encoding="utf-8"))
            return float(found["value"]) if found["metric"] == self._metric else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _age(folder: Path) -> tuple[int, int]:
    """Step, and which of its checkpoints."""
    found = _NAME.fullmatch(folder.name)
    if found is None:
        raise ValueError(f"{folder}: not a checkpoint's name (step_000100)")
    return int(found[1]), int(found[2] or 1)


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name; `ValueError` for another name."""
    return _age(folder)[0]


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, in words that name the file; empty if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): (int(of["bytes"]), str(of["sha256"])) for name, of in manifest.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    if not files:
        return f"{MANIFEST} names no file"
    return next(filter(None, (_file_damage(folder, name, *of) for name, of in files.items())), "")


def _file_damage(folder: Path, name: str, size: int, digest: str) -> str:
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        return f"{MANIFEST} names {name!r}, which lies outside"
    try:
        found = path.stat().st_size
        if found != size:
            return f"{name} has {found} bytes instead of {size}"
        return "" if _sha256(path) == digest else f"{name} is not as it was written (checksum)"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"


def _write_manifest(folder: Path) -> None:
    manifest = {}
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        size = path.stat().st_size
        manifest[str(path.relative_to(folder))] = {"bytes": size, "sha256": _sha256(path)}
    _replace_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    _sync_folder(folder)


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
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
    """So that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
