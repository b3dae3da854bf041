"""Load judges from a user's Python file. The file is executed."""

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from training.arguments.parsing import UserError
from training.judge import Judge

MODULE_NAME = "judge_file"

# A judge cannot have the name of another entry of the summary.
RESERVED = {
    *("prompts", "groups", "before", "after", "length", "length_unit", "distinct2"),
    *("duplicates", "kl", "perplexity", "reward_model", "reward_model_score", "samples", "seconds"),
}


def load_judge_file(path: str, arguments: Sequence[str] = ()) -> dict[str, Judge]:
    """Load the judges of a file, by name; the first is the main one.

    The file defines `score(texts)`, which returns one number per text, or `judges(...)`, which
    gets the `arguments` as text and returns functions like `score` by name.
    """
    module = _load(path)
    make, score = getattr(module, "judges", None), getattr(module, "score", None)
    if callable(make):
        functions = _call(path, "judges()", lambda: make(*arguments))
    elif callable(score):
        if arguments:
            raise UserError(f"--judge {path}: only judges() takes arguments, got {arguments[0]!r}")
        functions = {"judge": score}
    else:
        raise UserError(f"--judge {path}: define score(texts) or judges() in it")
    if (
        not isinstance(functions, Mapping)
        or not functions
        or not all(map(callable, functions.values()))
    ):
        raise UserError(
            f"--judge {path}: judges() must return a dict of names and functions, got {functions!r}"
        )
    judges = {str(name): _check_scores(path, str(name), judge) for name, judge in functions.items()}
    if taken := sorted(RESERVED & judges.keys()):
        raise UserError(f"--judge {path}: a judge cannot be called {taken[0]!r}; rename it")
    return judges


def load_main_judge(words: Sequence[str]) -> Judge | None:
    """Load the main judge of `--judge FILE ARGUMENT ...`; None without one."""
    return next(iter(load_judge_file(words[0], words[1:]).values())) if words else None


class _Loader(SourceFileLoader):
    def set_data(self, *_: Any, **__: Any) -> None:
        """Leave no compiled copy beside the user's file."""


def _load(path: str) -> ModuleType:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"--judge {path}: no such file")
    if file.suffix != ".py":
        raise UserError(f"--judge {path}: not a Python file; its name must end in .py")
    loader = _Loader(MODULE_NAME, str(file.resolve()))
    spec = importlib.util.spec_from_loader(MODULE_NAME, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module  # dataclasses in the file look themselves up here
    sys.path.append(str(file.resolve().parent))  # it may import its neighbours
    _call(path, "the file", lambda: loader.exec_module(module))
    return module


def _call(path: str, what: str, call: Callable[[], Any]) -> Any:
    """Call the user's code; an exception becomes one line with its line number in the file."""
    try:
        return call()
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        file = str(Path(path).expanduser().resolve())
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == file]  # fmt: skip
        at = f"{path}:{lines[-1]}" if lines else path
        raise UserError(f"--judge {at}: {what} failed: {type(error).__name__}: {error}") from error


def _check_scores(path: str, name: str, judge: Callable[[Sequence[str]], Any]) -> Judge:
    """Wrap a judge to refuse scores that are not one finite number per text."""

    def score(texts: Sequence[str]) -> list[float]:
        scores: list[float] = _call(path, repr(name), lambda: [*map(float, judge(list(texts)))])
        if len(scores) != len(texts):
            raise UserError(
                f"--judge {path}: {name!r} returned {len(scores)} scores for {len(texts)} texts"
            )
        bad = next((i for i, score in enumerate(scores) if not math.isfinite(score)), None)
        if bad is not None:
            raise UserError(
                f"--judge {path}: {name!r} returned {scores[bad]} for {texts[bad][:60]!r}"
            )
        return scores

    return score
