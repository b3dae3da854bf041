"""What a run's inputs were: so that one does not go on with other data or another model."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from training.arguments.common import CommonArgs

# What of a model's folder counts; a stage's has its log and its times as well.
MODEL = ("*.safetensors", "config.json", "scalar_model.json", "tokenizer*", "vocab*", "merges.txt",
         "*.jinja")  # fmt: skip
DATA = ("*",)
NAMES = ("_path", "_template", "_config", "_scratch")  # how flags end that name files
WHOLE = 2**26  # bytes; of a larger file samples are read
SAMPLES, SAMPLE = 256, 2**16


def compute_input_fingerprints(args: CommonArgs) -> dict[str, str]:
    """By flag, a digest of the files that it names on this machine; others are left out."""
    found = {}
    for name, value in asdict(args).items():
        is_model = name.endswith("model_name_or_path")
        if not value or not (is_model or name.endswith(NAMES)):
            continue
        paths = [Path(path) for path in (value if isinstance(value, list) else [value])]
        files = [file for path in paths for file in _files(path, MODEL if is_model else DATA)]
        if files:
            found[name] = _digest(files)
    return found


def _files(path: Path, patterns: Iterable[str]) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})


def _digest(files: Iterable[Path]) -> str:
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
