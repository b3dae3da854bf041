r"""Parse rows with `chosen` and `rejected` sides.

The prompt is a column, or what both sides begin with: text as in Anthropic's HH data
("\n\nHuman: ...\n\nAssistant: ..."), or lists of messages, which may follow a `prompt` of messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.arguments.parsing import UserError
from training.data import values
from training.data.values import Message

ANSWER = "\n\nAssistant:"
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Comparison:
    """A prompt and its two responses, chosen and rejected."""

    prompt: str  # for a conversation: its turns as plain lines
    responses: tuple[str, str]
    messages: tuple[Message, ...] = ()  # the prompt's, empty unless it is a conversation


def parse_comparison(row: Mapping[str, Any], source: str) -> Comparison:
    """Parse {"chosen", "rejected"} with or without a `prompt`, of text or of messages."""
    if any(side not in row for side in SIDES):
        other = "or 'prompt', 'responses' and 'pairs'"
        values.require_keys(row, ("prompt", *SIDES), "a comparison", source, other)
    sides = [row[side] for side in SIDES]
    if isinstance(row.get("prompt"), list | tuple) or any(isinstance(s, list) for s in sides):
        comparison = _split_messages(row, source)
    elif row.get("prompt") is None:
        comparison = _split_dialogues(row, source)
    else:
        prompt = values.read_text(row["prompt"], "prompt", source)
        chosen, rejected = (values.read_text(row[side], side, source) for side in SIDES)
        comparison = Comparison(prompt, (chosen, rejected))
    if comparison.responses[0] == comparison.responses[1]:
        raise UserError(
            f"{source}: 'chosen' and 'rejected' are the same text: "
            f"{values.show(comparison.responses[0])}; remove the row"
        )
    return comparison


def _split_dialogues(row: Mapping[str, Any], source: str) -> Comparison:
    """Split after the last "Assistant:" that both sides share."""
    sides = [row[side] for side in SIDES]
    if not any(isinstance(side, str) and ANSWER in side for side in sides):
        other = f"or sides that begin with the same dialogue, up to {ANSWER!r}"
        given = {key: value for key, value in row.items() if key != "prompt"}
        values.require_keys(given, ("prompt", *SIDES), "a comparison", source, other)
    chosen, rejected = (values.read_text(row[side], side, source) for side in SIDES)
    if chosen == rejected:
        return Comparison("", (chosen, rejected))
    differ = (n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    end = chosen[: next(differ, min(len(chosen), len(rejected)))].rfind(ANSWER)
    if end <= 0:
        raise UserError(
            f"{source}: 'chosen' and 'rejected' do not share a prompt: they must begin with the "
            f"same text up to {ANSWER!r}, got {values.show(chosen)} and {values.show(rejected)}"
        )
    end += len(ANSWER)
    first, second = (
        values.read_text(text[end:], f"{side} after the prompt", source)
        for side, text in zip(SIDES, (chosen, rejected), strict=True)
    )
    return Comparison(values.read_text(chosen[:end], "prompt", source), (first, second))


def _split_messages(row: Mapping[str, Any], source: str) -> Comparison:
    """Split into the turns that both sides share and the one assistant turn that ends each."""
    given = row.get("prompt")
    chosen, rejected = (
        values.read_messages(_join_messages(given, row[side], side, source), side, source)
        for side in SIDES
    )
    if chosen == rejected:
        return Comparison("", (chosen[-1].content, rejected[-1].content))
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    for side, messages in zip(SIDES, (chosen, rejected), strict=True):
        roles = [message.role for message in messages[shared:]]
        if roles != ["assistant"] or messages[shared - 1].role != "user" or not shared:
            raise UserError(
                f"{source}: 'chosen' and 'rejected' must be the same messages but for one "
                f"assistant turn at the end; after {shared} shared messages '{side}' has "
                f"{', '.join(roles) or 'nothing'}"
            )
    responses = (chosen[-1].content, rejected[-1].content)
    return Comparison(values.format_messages(chosen[:shared]), responses, chosen[:shared])


def _join_messages(prompt: Any, side: Any, name: str, source: str) -> Any:
    """Join the prompt's messages with a side's, unless the side repeats them."""
    if isinstance(side, str):
        side = [{"role": "assistant", "content": values.read_text(side, name, source)}]
    if not isinstance(side, list | tuple) or not side:
        return side  # `read_messages` raises an error that describes it
    if isinstance(prompt, str):  # the user's first turn, mostly repeated in the sides
        starts = isinstance(side[0], Mapping) and side[0].get("role") == "assistant"
        return [{"role": "user", "content": prompt}, *side] if starts else side
    before = list(prompt) if isinstance(prompt, list | tuple) else []
    return side if list(side[: len(before)]) == before else [*before, *side]
