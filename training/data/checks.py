"""Checks of single values of a row; each error is one line that starts with the row's source."""

import math
from collections.abc import Mapping
from typing import Any, cast

from training.arguments.parsing import UserError


def need_keys(
    row: Mapping[str, Any], keys: tuple[str, ...], what: str, source: str, other: str = ""
) -> None:
    """The row has all `keys`; `other` names what would do instead."""
    if any(key not in row for key in keys):
        *first, last = (f"'{key}'" for key in keys)
        needed = f"{', '.join(first)} and {last}" if first else last
        needed += f" ({other})" if other else ""
        raise UserError(f"{source}: {what} needs {needed}, got keys {sorted(map(str, row))}")


def text_value(value: Any, name: str, source: str, *, allow_empty: bool = False) -> str:
    """Non-empty text that can be written as UTF-8."""
    if not isinstance(value, str):
        got = "null" if value is None else f"{show(value)} ({type(value).__name__})"
        raise UserError(f"{source}: '{name}' must be text, got {got}")
    if not value.strip() and not allow_empty:
        raise UserError(f"{source}: '{name}' is empty; fill it or remove the row")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{source}: '{name}' holds half a surrogate pair ({show(value[error.start])}), "
            "which is no character"
        ) from None
    return value


def list_value(value: Any, name: str, source: str) -> list[Any]:
    """A list that is not empty."""
    if not isinstance(value, list | tuple):
        raise UserError(
            f"{source}: '{name}' must be a list, got {show(value)} ({type(value).__name__})"
        )
    if not value:
        raise UserError(f"{source}: '{name}' is an empty list")
    return list(value)


def number_value(value: Any, name: str, source: str, default: float) -> float:
    """A finite number, or `default` where the value is missing."""
    if value is None or value == "":  # Parquet has nulls and CSV empty cells
        return default
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)  # CSV has only text
        except (ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{source}: '{name}' must be a finite number, got {show(value)}")
    return number


def index_value(value: Any, name: str, count: int, source: str) -> int:
    """An index below `count`."""
    # Parquet stores [i, j, 0.7] as three floating-point numbers.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 0 <= value < count:
        raise UserError(
            f"{source}: '{name}' must be the index of a response, 0 to {count - 1}, "
            f"got {show(value)}"
        )
    return int(cast(float, value))


def show(value: Any) -> str:
    """The value as one short line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
