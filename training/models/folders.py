"""What is read of a model's folder: weights that hold no code, and no code of its own.

Weights are safetensors, or the older pickles, which torch reads as tensors and nothing else.
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
# Not told, transformers asks on a terminal whether to run the code that a folder brings.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}

# What transformers raises for a config that makes no sense.
CONFIG_ERRORS = (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError,
                 StrictDataclassError)  # fmt: skip


def summarize_error(error: Exception) -> str:
    """The first line of what an error says, or of what made it."""
    lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def is_code_refused(error: Exception) -> bool:
    """Whether transformers would have needed a folder's own code."""
    return "trust_remote_code" in str(error)


def make_code_error(path: str, *, flag: str) -> UserError:
    return UserError(
        f"{flag}: {path} brings code of its own (auto_map), which is never run; use a model whose "
        "type transformers itself knows"
    )


def check_weights(path: str, *, flag: str, hint: str) -> None:
    """Raise `UserError` when a folder has no weights; a Hub name is asked when it is loaded."""
    folder = Path(path).expanduser()
    if folder.is_dir() and not any((folder / name).is_file() for name in WEIGHTS):
        raise UserError(f"{flag}: {path} has no weights ({WEIGHTS[0]}); {hint}")


def read_json(path: Path, flag: str) -> dict[str, Any]:
    """The JSON object in a file of a model's folder."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}: {path} cannot be read as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{flag}: {path} holds no JSON object")
    return fields


@contextmanager
def explain_weight_errors(path: str) -> Iterator[None]:
    """Inside, weights that cannot be read are one line for the user."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles that are refused at once
            yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: its pickled weights hold more than tensors and are not read; use safetensors"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, SafetensorError) as error:
        if is_code_refused(error):
            raise make_code_error(path, flag="model") from error
        reason = summarize_error(error)
        raise UserError(
            f"{path}: its weights cannot be read: {reason}; copy the folder again, or recreate it"
        ) from error


def check_loaded(path: str, model: Any, found: dict[str, Any]) -> None:
    """Raise `UserError` when a model's folder lacks some of its weights: they would be random."""
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    missing = sorted(set(found["missing_keys"]) - tied)
    if missing:
        raise UserError(
            f"{path}: its weights lack {len(missing)} that its config asks for, such as "
            f"{missing[0]}; it holds another model"
        )


def read_tensor(folder: Path, name: str) -> Tensor:
    """A tensor of a folder's safetensors, wherever among them it lies."""
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            if name in set(file.keys()):
                tensor: Tensor = file.get_tensor(name)
                return tensor
    raise UserError(f"{folder}: no safetensors file holds {name}; train it again with stage 2")
