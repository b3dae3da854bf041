"""Checks of a model's folder and its errors in one line; code in a folder is never run.

Weights are safetensors, or the older pickles, which torch reads as tensors only.
"""

import json
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.arguments.parsing import UserError

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Without this transformers asks on the terminal whether to run the folder's code.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}

# Raised by transformers for an invalid config.
CONFIG_ERRORS = (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError,
                 StrictDataclassError)  # fmt: skip


def summarize_error(error: Exception) -> str:
    """Return the first line of an error's message, or of its cause's."""
    lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def refuse_code(error: Exception, path: str, *, flag: str) -> None:
    """Raise `UserError` if transformers failed because it may not run the folder's code."""
    if "trust_remote_code" in str(error):
        raise UserError(
            f"{flag}: {path} brings code of its own (auto_map), which is never run; use a model "
            "whose type transformers itself knows"
        ) from error


def check_weights(path: str, *, flag: str, hint: str) -> None:
    """Raise `UserError` if a folder has no weights; those of a Hub name are checked on loading."""
    folder = Path(path).expanduser()
    if folder.is_dir() and not any((folder / name).is_file() for name in WEIGHTS):
        raise UserError(f"{flag}: {path} has no weights ({WEIGHTS[0]}); {hint}")


def read_json(path: Path, flag: str) -> dict[str, Any]:
    """Read a JSON object; raises `UserError` if there is none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}: {path} cannot be read as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{flag}: {path} holds no JSON object")
    return fields


@contextmanager
def explain_weight_errors(path: str) -> Iterator[None]:
    """Turn errors of unreadable weights into a `UserError` of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickles that are then refused
            yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: its pickled weights hold more than tensors and are not read; use safetensors"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, SafetensorError) as error:
        refuse_code(error, path, flag="model")
        reason = summarize_error(error)
        raise UserError(
            f"{path}: its weights cannot be read: {reason}; copy the folder again, or recreate it"
        ) from error


def read_tensor(folder: Path, name: str) -> Tensor:
    """Read a tensor from whichever safetensors file of a folder holds it."""
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            if name in set(file.keys()):
                tensor: Tensor = file.get_tensor(name)
                return tensor
    raise UserError(f"{folder}: no safetensors file holds {name}; train it again with stage 2")
