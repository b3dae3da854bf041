"""Checked values of a row: text, lists, numbers, indices, turns of a conversation.

Each error is one line that starts with the row's source ("path:line").
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from training.arguments.parsing import UserError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


def require_keys(
    row: Mapping[str, Any], keys: tuple[str, ...], what: str, source: str, other: str = ""
) -> None:
    """Check that the row has all `keys`; `other` names an alternative."""
    if any(key not in row for key in keys):
        *first, last = (f"'{key}'" for key in keys)
        needed = f"{', '.join(first)} and {last}" if first else last
        needed += f" ({other})" if other else ""
        raise UserError(f"{source}: {what} needs {needed}, got keys {sorted(map(str, row))}")


def read_text(value: Any, name: str, source: str, *, allow_empty: bool = False) -> str:
    """Return text, not empty, that can be written as UTF-8."""
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


def read_list(value: Any, name: str, source: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise UserError(
            f"{source}: '{name}' must be a list, got {show(value)} ({type(value).__name__})"
        )
    if not value:
        raise UserError(f"{source}: '{name}' is an empty list")
    return list(value)


def read_number(value: Any, name: str, source: str, default: float) -> float:
    """Return a finite number, or `default` for a missing value."""
    if value is None or value == "":  # Parquet has nulls and CSV empty cells
        return default
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)  # CSV has only text
    if not math.isfinite(number):
        raise UserError(f"{source}: '{name}' must be a finite number, got {show(value)}")
    return number


def read_index(value: Any, name: str, count: int, source: str) -> int:
    # Parquet stores [i, j, 0.7] as three floating-point numbers.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 0 <= value < count:
        raise UserError(
            f"{source}: '{name}' must be the index of a response, 0 to {count - 1}, "
            f"got {show(value)}"
        )
    return int(cast(float, value))


def show(value: Any) -> str:
    """Format the value as one short line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_messages(value: Any, name: str, source: str) -> tuple[Message, ...]:
    """Read [{"role", "content"}, ...]; after any system turn the first turn is the user's."""
    messages = []
    for n, item in enumerate(read_list(value, name, source)):
        at = f"{name}[{n}]"
        if not isinstance(item, Mapping) or not {"role", "content"} <= item.keys():
            raise UserError(f"{source}: {at} needs 'role' and 'content', got {show(item)}")
        role = item["role"]
        if role not in ROLES:
            raise UserError(
                f"{source}: {at} has the role {show(role)}; known are {', '.join(ROLES)}"
            )
        if role == "system" and n > 0:
            raise UserError(f"{source}: {at} is a system turn; only the first turn may be one")
        allow_empty = role == "system"  # many data sets write "" for "no system prompt"
        content = read_text(item["content"], f"{at} content", source, allow_empty=allow_empty)
        if content:
            messages.append(Message(role, content))
    turns = [message for message in messages if message.role != "system"]
    if not turns or turns[0].role != "user":
        raise UserError(f"{source}: the first turn of '{name}' (after system) must be the user's")
    return tuple(messages)


def read_prompt_messages(value: Any, name: str, source: str) -> tuple[Message, ...]:
    """Read messages that an assistant is to answer: the last turn is the user's."""
    messages = read_messages(value, name, source)
    if messages[-1].role != "user":
        raise UserError(
            f"{source}: '{name}' of a prompt must end with a user turn, "
            f"got {messages[-1].role!r} last"
        )
    return messages


def format_messages(messages: Sequence[Message]) -> str:
    """Format the turns as plain lines, for people and for comparing prompts."""
    return "\n".join(f"{message.role}: {message.content}" for message in messages)
