"""Records of the stages, and the checks that turn a row of data into one.

Every `parse_*` takes one row and its `source` ("path:line") and returns a record, or raises a
`UserError` that starts with the source. Nothing here reads files or knows a tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.arguments.parsing import UserError
from training.data import values
from training.data.comparisons import parse_comparison
from training.data.values import Message

PAIR_KEYS = ("chosen", "rejected", "label", "weight", "margin", "gap", "annotator", "votes")


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to imitate."""

    prompt: str
    response: str
    source: str


@dataclass(frozen=True)
class Conversation:
    """Turns of chat; the assistant's turns are to be imitated."""

    messages: tuple[Message, ...]
    source: str


@dataclass(frozen=True)
class Text:
    """Plain text for language-model training."""

    text: str
    source: str


@dataclass(frozen=True)
class Pair:
    """A comparison of two responses, by index; `label` is P(chosen is better)."""

    chosen: int
    rejected: int
    label: float = 1.0
    weight: float = 1.0
    margin: float = 0.0
    gap: float | None = None  # by how much people rated chosen higher; for evaluation alone
    # (annotator, 1 for chosen, 0 for rejected, 0.5 for a tie); for evaluation alone
    votes: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ResponseGroup:
    """One prompt, its responses (each scored once), and all comparisons among them."""

    prompt: str
    responses: tuple[str, ...]
    pairs: tuple[Pair, ...]
    source: str
    messages: tuple[Message, ...] = field(default=())  # the prompt's, if it is a conversation


@dataclass(frozen=True)
class Prompt:
    """Something to respond to."""

    text: str  # for a conversation: its turns as plain lines
    source: str
    fields: Mapping[str, str]  # the row's other text columns
    messages: tuple[Message, ...] = field(default=())  # empty unless the row is a conversation


def parse_demonstration(row: Mapping[str, Any], source: str) -> Demonstration:
    """Parse {"prompt", "response"}."""
    values.require_keys(row, ("prompt", "response"), "a demonstration", source, "or 'messages'")
    prompt, response = values.read_text(row["prompt"], "prompt", source), row["response"]
    return Demonstration(prompt, values.read_text(response, "response", source), source)


def parse_conversation(row: Mapping[str, Any], source: str) -> Conversation:
    """Parse {"messages": [{"role", "content"}, ...]} with an assistant turn."""
    values.require_keys(row, ("messages",), "a conversation", source)
    messages = values.read_messages(row["messages"], "messages", source)
    if not any(message.role == "assistant" for message in messages):
        raise UserError(f"{source}: 'messages' has no assistant turn, so nothing to learn from")
    return Conversation(messages, source)


def parse_sft_row(row: Mapping[str, Any], source: str) -> Demonstration | Conversation:
    """Parse a conversation if the row has one, else a demonstration or a comparison's chosen side.

    A `prompt` may be a list of messages.
    """
    if row.get("messages") is not None:
        return parse_conversation(row, source)
    if row.get("response") is None and row.get("chosen") is not None:
        comparison = parse_comparison(row, source)
        chosen = comparison.responses[0]
        if not comparison.messages:
            return Demonstration(comparison.prompt, chosen, source)
        return Conversation((*comparison.messages, Message("assistant", chosen)), source)
    if isinstance(row.get("prompt"), list | tuple):
        values.require_keys(row, ("response",), "a demonstration", source, "or 'messages'")
        messages = values.read_prompt_messages(row["prompt"], "prompt", source)
        response = values.read_text(row["response"], "response", source)
        return Conversation((*messages, Message("assistant", response)), source)
    return parse_demonstration(row, source)


def parse_text(row: Mapping[str, Any], source: str) -> Text:
    """Parse {"text"}."""
    values.require_keys(row, ("text",), "plain text for language modelling", source)
    return Text(values.read_text(row["text"], "text", source), source)


def parse_prompt(row: Mapping[str, Any], source: str) -> Prompt:
    """Parse {"prompt"}, {"messages"} that end with a user turn, or a comparison's prompt.

    A `prompt` may be a list of messages.
    """
    fields = {
        key: value
        for key, value in row.items()
        if isinstance(value, str) and key not in ("prompt", "messages")
    }
    name = "messages" if row.get("messages") is not None else "prompt"
    if isinstance(row.get(name), list | tuple) or name == "messages":
        messages = values.read_prompt_messages(row[name], name, source)
        return Prompt(values.format_messages(messages), source, fields, messages)
    if row.get("chosen") is not None and not isinstance(row.get("prompt"), str):
        comparison = parse_comparison(row, source)
        return Prompt(comparison.prompt, source, fields, comparison.messages)
    values.require_keys(row, ("prompt",), "a prompt row", source, "or 'messages'")
    return Prompt(values.read_text(row["prompt"], "prompt", source), source, fields)


def parse_group(row: Mapping[str, Any], source: str) -> ResponseGroup:
    """Parse {"prompt", "chosen", "rejected"} or {"prompt", "responses", "pairs"}.

    The first form may have `label`, `weight`, `margin` and `gap`, and who judged: `annotator`, one
    person's name or number, or `votes`, {name: 1 for chosen, 0 for rejected}. Its prompt may be
    part of the two sides (`comparisons`). In the second a pair is [i, j], [i, j, label] or an
    object with those names; `gaps` may hold one number per pair.
    """
    if row.get("responses") is not None or row.get("pairs") is not None:
        return _parse_responses(row, source)
    comparison = parse_comparison(row, source)
    pairs = (_parse_pair(0, 1, row, "", source),)
    return ResponseGroup(
        comparison.prompt, comparison.responses, pairs, source, comparison.messages
    )


def _parse_responses(row: Mapping[str, Any], source: str) -> ResponseGroup:
    values.require_keys(row, ("prompt", "responses", "pairs"), "a group of responses", source)
    prompt = values.read_text(row["prompt"], "prompt", source)
    given = values.read_list(row["responses"], "responses", source)
    responses = tuple(values.read_text(v, f"responses[{i}]", source) for i, v in enumerate(given))
    specs = values.read_list(row["pairs"], "pairs", source)
    gaps: list[Any] = [None] * len(specs)
    if row.get("gaps") is not None:
        gaps = values.read_list(row["gaps"], "gaps", source)
        if len(gaps) != len(specs):
            raise UserError(
                f"{source}: 'gaps' needs one number for each of the {len(specs)} pairs, "
                f"got {len(gaps)}"
            )
    pairs = tuple(
        _parse_pair_of_group(spec, gap, f"pairs[{n}]", responses, source)
        for n, (spec, gap) in enumerate(zip(specs, gaps, strict=True))
    )
    return ResponseGroup(prompt, responses, pairs, source)


def _parse_pair_of_group(
    spec: Any, gap: Any, name: str, responses: tuple[str, ...], source: str
) -> Pair:
    given: dict[str, Any] = {"gap": gap}
    if isinstance(spec, Mapping):
        unknown = [key for key in spec if key not in PAIR_KEYS]
        if unknown:
            raise UserError(
                f"{source}: {name} has unknown keys {unknown}; it may have {list(PAIR_KEYS)}"
            )
        given |= {key: value for key, value in spec.items() if value is not None}
    elif isinstance(spec, list | tuple) and len(spec) in (2, 3):
        given |= dict(zip(PAIR_KEYS, spec, strict=False))
    else:
        raise UserError(
            f"{source}: {name} must be [chosen, rejected], [chosen, rejected, label] or an "
            f"object with 'chosen' and 'rejected', got {values.show(spec)}"
        )
    chosen, rejected = (
        values.read_index(given.get(key), f"{name}: {key}", len(responses), source)
        for key in ("chosen", "rejected")
    )
    if responses[chosen] == responses[rejected]:
        raise UserError(
            f"{source}: {name} compares response {chosen} with {rejected}, which have the same "
            f"text: {values.show(responses[chosen])}; remove the pair"
        )
    return _parse_pair(chosen, rejected, given, f"{name}: ", source)


def _parse_pair(chosen: int, rejected: int, given: Mapping[str, Any], at: str, source: str) -> Pair:
    label = values.read_number(given.get("label"), f"{at}label", source, 1.0)
    weight = values.read_number(given.get("weight"), f"{at}weight", source, 1.0)
    margin = values.read_number(given.get("margin"), f"{at}margin", source, 0.0)
    if not 0 <= label <= 1:
        raise UserError(
            f"{source}: '{at}label' is the chance that chosen is better, "
            f"so between 0 and 1, got {label:g}"
        )
    if weight <= 0:
        raise UserError(f"{source}: '{at}weight' must be positive, got {weight:g}")
    if margin < 0:
        raise UserError(f"{source}: '{at}margin' must not be negative, got {margin:g}")
    gap = given.get("gap")
    if gap is not None:
        gap = values.read_number(gap, f"{at}gap", source, 0.0)
    votes = _parse_votes(given, label, at, source)
    return Pair(chosen, rejected, label, weight, margin, gap, votes)


def _parse_votes(
    given: Mapping[str, Any], label: float, at: str, source: str
) -> tuple[tuple[str, float], ...]:
    """Parse who judged the comparison; columns of these names with other values are ignored."""
    cast, person = given.get("votes"), given.get("annotator")
    if not isinstance(cast, Mapping):
        is_name = isinstance(person, int | str) and not isinstance(person, bool)
        cast = {person: 0.5 if label == 0.5 else float(label > 0.5)} if is_name else {}
    votes = []
    for key, value in cast.items():
        name = values.read_text(str(key), f"{at}annotator", source, allow_empty=True)
        if value is None or not name.strip():  # Parquet has nulls for the names of other rows
            continue
        share = values.read_number(value, f"{at}votes: {name}", source, 0.5)
        if not 0 <= share <= 1:
            raise UserError(
                f"{source}: '{at}votes' of {values.show(name)} must be between 0 (for rejected) "
                f"and 1 (for chosen), got {share:g}"
            )
        votes.append((name, share))
    return tuple(votes)


Record = Demonstration | Conversation | Text | ResponseGroup | Prompt


def list_sequences(record: Record) -> list[tuple[str, str]]:
    """List (prompt, response) of each sequence of a record; either may be empty."""
    if isinstance(record, Demonstration):
        return [(record.prompt, record.response)]
    if isinstance(record, Conversation):
        return [("", "\n".join(turn.content for turn in record.messages))]
    if isinstance(record, ResponseGroup):
        return [(record.prompt, response) for response in record.responses]
    if isinstance(record, Prompt):
        return [(record.text, "")]
    return [("", record.text)]
