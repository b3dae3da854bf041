"""How many tokens a record has in training, before anything is cut."""

import sys
from collections.abc import Sequence
from typing import Any

from training.data.encode import (
    Outcome,
    encode_dialogues,
    encode_groups,
    encode_prompts,
    encode_texts,
)
from training.data.outcomes import sequence_lengths
from training.data.records import Prompt, Record, ResponseGroup, Text


def token_lengths(
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
    return sequence_lengths(outcome.row) if outcome.row is not None else []
