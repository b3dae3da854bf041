"""Fingerprints of a run's input files, so that it is not resumed with other data or models."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from training.arguments.common import CommonArgs

# The files that make up a model; a stage's folder has logs as well.
MODEL = ("*.safetensors", "config.json", "scalar_model.json", "tokenizer*", "vocab*", "merges.txt",
         "*.jinja")  # fmt: skip
DATA = ("*",)
NAMES = ("_path", "_template", "_config", "_scratch")  # endings of flags that name files
WHOLE = 2**26  # bytes; larger files are sampled
SAMPLES, SAMPLE = 256, 2**16


def compute_input_fingerprints(args: CommonArgs) -> dict[str, str]:
    """Return a digest of the files per flag that names some; others are skipped."""
    digests = {}
    for name, value in asdict(args).items():
        is_model = name.endswith("model_name_or_path")
        if not value or not (is_model or name.endswith(NAMES)):
            continue
        paths = [Path(path) for path in (value if isinstance(value, list) else [value])]
        files = [file for path in paths for file in _list_files(path, MODEL if is_model else DATA)]
        if files:
            digests[name] = _compute_digest(files)
    return digests


def _list_files(path: Path, patterns: Iterable[str]) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})


def _compute_digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for index in range(SAMPLES):
                file.seek((size - SAMPLE) * index // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()
