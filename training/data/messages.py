"""Turns of a conversation, as rows hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.arguments.parsing import UserError
from training.data.checks import list_value, show, text_value

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


def messages_value(value: Any, name: str, source: str) -> tuple[Message, ...]:
    """[{"role", "content"}, ...] that starts, after a system turn if any, with the user's."""
    messages = []
    for n, item in enumerate(list_value(value, name, source)):
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
        content = text_value(item["content"], f"{at} content", source, allow_empty=allow_empty)
        if content:
            messages.append(Message(role, content))
    turns = [message for message in messages if message.role != "system"]
    if not turns or turns[0].role != "user":
        raise UserError(f"{source}: the first turn of '{name}' (after system) must be the user's")
    return tuple(messages)


def prompt_messages(value: Any, name: str, source: str) -> tuple[Message, ...]:
    """As `messages_value`, for what an assistant is to answer: the last turn is the user's."""
    messages = messages_value(value, name, source)
    if messages[-1].role != "user":
        raise UserError(
            f"{source}: '{name}' of a prompt must end with a user turn, "
            f"got {messages[-1].role!r} last"
        )
    return messages


def as_lines(messages: Sequence[Message]) -> str:
    """The turns as plain lines, for people and for comparing prompts."""
    return "\n".join(f"{message.role}: {message.content}" for message in messages)
