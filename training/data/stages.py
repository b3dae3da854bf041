"""From a stage's flags to its encoded data."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data import dataset
from training.data.annotation.convert import convert_if_export
from training.data.blocks import Blocks
from training.data.chat import load_chat_template
from training.data.contamination import hash_text
from training.data.dataset import Work
from training.data.encode import (
    EncodedGroup,
    EncodedPrompt,
    EncodedText,
    Overlong,
    check_prompt_template,
    encode_dialogues,
    encode_groups,
    encode_prompts,
    encode_texts,
)
from training.data.groups import shuffle_labels
from training.data.records import (
    Conversation,
    Demonstration,
    Prompt,
    ResponseGroup,
    Text,
    parse_group,
    parse_prompt,
    parse_sft_row,
    parse_text,
)
from training.data.sources import Convert, read_rows
from training.data.tables import GROUPS, PROMPTS, TEXTS

logger = logging.getLogger(__name__)

E = TypeVar("E")
Tokenizer = Any


@dataclass(frozen=True)
class Split(Generic[E]):
    """Encoded training and held-out data; `held_out` may be empty if nothing is held out."""

    train: Sequence[E]
    held_out: Sequence[E]


def load_sft(args: SFTArgs, tokenizer: Tokenizer) -> Split[EncodedText]:
    """Stage 1: demonstrations and conversations, or packed blocks of plain text."""
    limit = f"--max_length {args.max_length}"
    if args.objective == "lm":
        encode = partial(encode_texts, tokenizer=tokenizer)
        texts: Work[Text, EncodedText] = Work(
            "pretrain", parse_text, encode, TEXTS, limit, {}, tokenizer
        )
        train, held_out = (Blocks(rows, args.max_length) for rows in dataset.load(args, texts))
        if not train:
            raise UserError("--data_path holds less than two tokens of text")
        return Split(train, held_out)
    settings = {"max_length": args.max_length, **_templates(args)}
    dialogues: Work[Demonstration | Conversation, EncodedText] = Work(
        "sft",
        parse_sft_row,
        partial(encode_dialogues, tokenizer=tokenizer, **settings),
        TEXTS,
        limit,
        settings,
        tokenizer,
    )
    return Split(*dataset.load(args, dialogues))


def iterate_texts(args: SFTArgs) -> Iterator[str]:
    """Stage 1's training text as it stands in the data, for a tokenizer to be trained on."""
    stage = "pretrain" if args.objective == "lm" else "sft"
    from_row = parse_text if args.objective == "lm" else parse_sft_row
    for row, source in read_rows(args.data_path, stage=stage, split="train"):
        record = from_row(row, source)
        if isinstance(record, Text):
            yield record.text
        elif isinstance(record, Demonstration):
            yield from (record.prompt, record.response)
        else:
            yield from (message.content for message in record.messages)


def load_comparisons(args: RewardArgs, tokenizer: Tokenizer) -> Split[EncodedGroup]:
    """Stage 2: prompts with their responses and the comparisons among them."""
    settings = {"max_length": args.max_length, **_templates(args)}
    work: Work[ResponseGroup, EncodedGroup] = Work(
        "reward",
        parse_group,
        partial(encode_groups, tokenizer=tokenizer, **settings),
        GROUPS,
        f"--max_length {args.max_length}",
        settings,
        tokenizer,
        _conversion(args),
    )
    train, held_out = dataset.load(args, work)
    if args.shuffle_labels:
        return Split(shuffle_labels(train, seed=args.seed), held_out)
    return Split(train, held_out)


def load_normalization_prompts(args: RewardArgs, tokenizer: Tokenizer) -> Sequence[EncodedPrompt]:
    """Stage 2: distinct prompts that the SFT model answers to set the scale of the scores."""

    def bare(row: Any, source: str) -> Prompt:
        return replace(parse_prompt(row, source, 0), fields={})  # the answers are among them

    room = max(args.max_length - args.normalization_new_tokens, 1)
    work = _prompts(args, tokenizer, room, "drop")
    work = replace(
        work,
        from_row=bare,
        settings={**work.settings, "fields": False, "digest": "exact"},
        convert=_conversion(args, told=not args.normalization_data_path),
        digest=hash_text,
    )
    paths = args.normalization_data_path or args.data_path
    source = dataset.source_of(args, work, paths, "train")
    _, first = np.unique(source.keys, return_index=True)
    try:
        prompts, _ = source.rows(np.sort(first), work.limit)
    except UserError as error:
        raise UserError(
            f"--normalization_new_tokens {args.normalization_new_tokens} leaves no prompt room in "
            f"--max_length {args.max_length}; lower it"
        ) from error
    return prompts


def load_prompts(args: PPOArgs, tokenizer: Tokenizer) -> Split[EncodedPrompt]:
    """Stage 3: prompts to respond to."""
    work = _prompts(args, tokenizer, args.max_prompt_length, args.overlong_prompts)
    return Split(*dataset.load(args, work))


def _prompts(
    args: CommonArgs, tokenizer: Tokenizer, max_prompt_length: int, overlong: Overlong
) -> Work[Prompt, EncodedPrompt]:
    settings = {
        "max_prompt_length": max_prompt_length,
        "overlong": overlong,
        **_templates(args),
    }
    return Work(
        "ppo",
        partial(parse_prompt, prompt_id=0),  # its place in the data, as `Rows` tells it
        partial(encode_prompts, tokenizer=tokenizer, **settings),
        PROMPTS,
        f"--max_prompt_length {max_prompt_length}",
        settings,
        tokenizer,
    )


def _templates(args: CommonArgs) -> dict[str, Any]:
    return {
        "prompt_template": check_prompt_template(args.prompt_template),
        "chat_template": load_chat_template(args.chat_template),
    }


def _conversion(args: RewardArgs, *, told: bool = False) -> Convert:
    """Stage 2 reads Label Studio's exports as well; `told`: their account was logged before."""
    return partial(convert_if_export, args=args, told=told)
