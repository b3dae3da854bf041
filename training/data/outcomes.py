"""What became of records on the way to tokens, counted for the log."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from training.arguments.parsing import UserError
from training.data.encode import (
    EncodedGroup,
    EncodedPrompt,
    EncodedText,
    Outcome,
    encode_dialogues,
    encode_groups,
    encode_prompts,
    encode_texts,
)
from training.data.records import Prompt, Record, ResponseGroup, Text

E = TypeVar("E", bound=EncodedText | EncodedGroup | EncodedPrompt)


@dataclass(frozen=True)
class EncodeReport:
    """What became of the rows on the way to tokens."""

    rows: int
    truncated: int  # rows (in groups: responses) that were cut
    dropped: int  # rows left out
    tokens: int  # in the rows that are left
    limit: str  # the flag that set the length, with its value
    dropped_pairs: int = 0  # comparisons whose two sides were cut to the same tokens

    def __post_init__(self) -> None:
        if self.rows and self.rows == self.dropped:
            raise UserError(f"none of the {self.rows} rows fits {self.limit}; raise it")

    def summary(self) -> str:
        """One line for the log."""
        parts = [f"{self.rows - self.dropped} of {self.rows} rows, {self.tokens} tokens"]
        if self.truncated:
            parts.append(f"{self.truncated} cut to {self.limit}")
        if self.dropped:
            parts.append(f"{self.dropped} left out (too long for {self.limit})")
        if self.dropped_pairs:
            parts.append(f"{self.dropped_pairs} comparisons left out (equal after the cut)")
        return "; ".join(parts)


def collect_rows(outcomes: Sequence[Outcome[E]], limit: str) -> tuple[list[E], EncodeReport]:
    """The rows that are left, and the account of all."""
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    report = EncodeReport(
        rows=len(outcomes),
        truncated=sum(outcome.cut for outcome in outcomes),
        dropped=len(outcomes) - len(rows),
        tokens=sum(sum(count_tokens(row)) for row in rows),
        limit=limit,
        dropped_pairs=sum(outcome.dropped_pairs for outcome in outcomes),
    )
    return rows, report


def count_tokens(row: EncodedText | EncodedGroup | EncodedPrompt) -> list[int]:
    """Tokens of each sequence of a row: in groups the prompt with each of its responses."""
    if isinstance(row, EncodedGroup):
        return [len(row.prompt_ids) + len(ids) for ids in row.response_ids]
    return [len(row.input_ids)]


def count_record_tokens(
    record: Record, *, tokenizer: Any, prompt_template: str, chat_template: str | None
) -> list[int]:
    """Tokens of each sequence that a stage makes of a record; none where it has nothing to learn.

    Raises `UserError` where the chat template refuses a conversation.
    """
    templates: dict[str, Any] = {
        "prompt_template": prompt_template,
        "chat_template": chat_template,
    }
    outcomes: Sequence[Outcome[Any]]
    if isinstance(record, Text):
        outcomes = encode_texts([record], tokenizer)
    elif isinstance(record, Prompt):
        outcomes = encode_prompts(
            [record],
            tokenizer,
            max_prompt_length=sys.maxsize,
            overlong="error",
            **templates,
        )
    elif isinstance(record, ResponseGroup):
        outcomes = encode_groups([record], tokenizer, max_length=sys.maxsize, **templates)
    else:
        outcomes = encode_dialogues([record], tokenizer, max_length=sys.maxsize, **templates)
    (outcome,) = outcomes
    return count_tokens(outcome.row) if outcome.row is not None else []
