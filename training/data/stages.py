"""From a stage's flags to its encoded data."""

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
from training.data import encode, records
from training.data.annotation.convert import convert_export
from training.data.build_tables import RowEncoder
from training.data.chat import TemplateTokenizer, add_templates
from training.data.contamination import hash_text
from training.data.dataset import encode_paths, load_rows
from training.data.encode import EncodedGroup, EncodedPrompt, EncodedText, Overlong
from training.data.groups import shuffle_labels
from training.data.records import Demonstration, Prompt, Text
from training.data.sources import read_rows
from training.data.tables import GROUPS, PROMPTS, TEXTS, Blocks

E = TypeVar("E")
Tokenizer = Any


@dataclass(frozen=True)
class Split(Generic[E]):
    """Encoded training and held-out data; `held_out` is empty if nothing is held out."""

    train: Sequence[E]
    held_out: Sequence[E]


def load_sft(args: SFTArgs, tokenizer: Tokenizer) -> Split[EncodedText]:
    """Load demonstrations and conversations for stage 1, or packed blocks of plain text."""
    limit = f"--max_length {args.max_length}"
    if args.objective == "lm":
        plain = TemplateTokenizer(tokenizer)  # texts have no templates
        texts = RowEncoder(
            "pretrain", records.parse_text, encode.encode_texts, TEXTS, plain, {}, limit
        )
        train, held_out = (Blocks(rows, args.max_length) for rows in load_rows(args, texts))
        if not train:
            raise UserError("--data_path holds less than two tokens of text")
        return Split(train, held_out)
    templates, settings = add_templates(tokenizer, args), {"max_length": args.max_length}
    parse, encode_rows = records.parse_sft_row, encode.encode_dialogues
    dialogues = RowEncoder("sft", parse, encode_rows, TEXTS, templates, settings, limit)
    return Split(*load_rows(args, dialogues))


def iterate_texts(args: SFTArgs) -> Iterator[str]:
    """Yield stage 1's training text as it is in the data, to train a tokenizer on."""
    stage = "pretrain" if args.objective == "lm" else "sft"
    for row, source in read_rows(args.data_path, stage=stage, split="train"):
        parse = records.parse_text if stage == "pretrain" else records.parse_sft_row
        record = parse(row, source)
        if isinstance(record, Text):
            yield record.text
        elif isinstance(record, Demonstration):
            yield from (record.prompt, record.response)
        else:
            yield from (message.content for message in record.messages)


def load_comparisons(args: RewardArgs, tokenizer: Tokenizer) -> Split[EncodedGroup]:
    """Load prompts with their responses and the comparisons among them, for stage 2."""
    parse, encode_rows = records.parse_group, encode.encode_groups
    templates, settings = add_templates(tokenizer, args), {"max_length": args.max_length}
    limit = f"--max_length {args.max_length}"
    convert = partial(convert_export, args=args)
    encoder = RowEncoder("reward", parse, encode_rows, GROUPS, templates, settings, limit, convert)
    train, held_out = load_rows(args, encoder)
    if args.shuffle_labels:
        return Split(shuffle_labels(train, seed=args.seed), held_out)
    return Split(train, held_out)


def load_normalization_prompts(args: RewardArgs, tokenizer: Tokenizer) -> Sequence[EncodedPrompt]:
    """Load stage 2's distinct prompts; the SFT model's answers to them set the scale of scores."""

    def parse(row: Any, source: str) -> Prompt:
        return replace(records.parse_prompt(row, source), fields={})  # the answers are among them

    room = max(args.max_length - args.normalization_new_tokens, 1)
    encoder = replace(
        _build_prompt_encoder(args, tokenizer, room, "drop"),
        parse=parse,
        # `load_comparisons` has logged the account of its own export.
        convert=partial(convert_export, args=args, log=bool(args.normalization_data_path)),
        hash_prompt=hash_text,
        variant="distinct prompts",
    )
    paths = args.normalization_data_path or args.data_path
    data = encode_paths(args, encoder, paths, "train")
    _, first = np.unique(data.keys, return_index=True)
    try:
        prompts, _ = data.select(np.sort(first), encoder.limit)
    except UserError as error:
        raise UserError(
            f"--normalization_new_tokens {args.normalization_new_tokens} leaves no prompt room in "
            f"--max_length {args.max_length}; lower it"
        ) from error
    return prompts


def load_prompts(args: PPOArgs, tokenizer: Tokenizer) -> Split[EncodedPrompt]:
    """Load prompts to respond to, for stage 3."""
    encoder = _build_prompt_encoder(args, tokenizer, args.max_prompt_length, args.overlong_prompts)
    return Split(*load_rows(args, encoder))


def _build_prompt_encoder(
    args: CommonArgs, tokenizer: Tokenizer, max_prompt_length: int, overlong: Overlong
) -> RowEncoder[Prompt, EncodedPrompt]:
    return RowEncoder(
        "ppo",
        records.parse_prompt,
        encode.encode_prompts,
        PROMPTS,
        add_templates(tokenizer, args),
        {"max_prompt_length": max_prompt_length, "overlong": overlong},
        f"--max_prompt_length {max_prompt_length}",
    )
