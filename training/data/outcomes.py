"""Count what encoding made of records: rows left, cut and dropped, and tokens."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from training.arguments.parsing import UserError
from training.data.chat import TemplateTokenizer
from training.data.encode import (
    EncodedGroup,
    EncodedPrompt,
    EncodedText,
    Outcome,
    PromptTokens,
    count_tokens,
    encode_dialogues,
    encode_groups,
    encode_prompts,
    encode_texts,
)
from training.data.records import Prompt, Record, ResponseGroup, Text

E = TypeVar("E", bound=EncodedText | EncodedGroup | EncodedPrompt)


@dataclass(frozen=True)
class EncodeReport:
    """How many rows were encoded, cut and dropped."""

    rows: int
    truncated: int  # rows (in groups: responses) that were cut
    dropped: int  # rows
    tokens: int  # in the rows that are left
    limit: str  # the flag that set the length, with its value
    dropped_pairs: int = 0  # comparisons whose two sides were cut to the same tokens

    def __post_init__(self) -> None:
        if self.rows and self.rows == self.dropped:
            raise UserError(f"none of the {self.rows} rows fits {self.limit}; raise it")

    def summarize(self) -> str:
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
    """Return the rows that are left, and the report of all."""
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


def number_prompts(
    outcomes: Sequence[Outcome[PromptTokens]], prompt_ids: Iterable[int]
) -> list[Outcome[EncodedPrompt]]:
    """Give each prompt its number in the data."""
    return [
        Outcome(outcome.row.number(prompt_id) if outcome.row else None, outcome.cut)
        for outcome, prompt_id in zip(outcomes, prompt_ids, strict=True)
    ]


def count_record_tokens(record: Record, tokenizer: TemplateTokenizer) -> list[int]:
    """Count the tokens of each sequence that a stage makes of a record, before anything is cut.

    Empty if the record has nothing to learn from. Raises `UserError` if the chat template refuses
    a conversation.
    """
    most = sys.maxsize
    outcomes: Sequence[Outcome[Any]]
    if isinstance(record, Text):
        outcomes = encode_texts([record], tokenizer)
    elif isinstance(record, Prompt):
        outcomes = encode_prompts([record], tokenizer, max_prompt_length=most, overlong="error")
    elif isinstance(record, ResponseGroup):
        outcomes = encode_groups([record], tokenizer, max_length=most)
    else:
        outcomes = encode_dialogues([record], tokenizer, max_length=most)
    (outcome,) = outcomes
    return count_tokens(outcome.row) if outcome.row is not None else []
