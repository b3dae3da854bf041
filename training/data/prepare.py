"""From a stage's flags to its encoded data: read, check, hold out, encode, report.

Held-out data is --eval_data_path where given; else the data's own dev split, if every path has
one; else a share of the prompts, none of which stays in the training data.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data.annotation.convert import rows_of_export
from training.data.chat import load_chat_template
from training.data.encode import (
    EncodedGroup,
    EncodedPrompt,
    EncodedText,
    EncodeReport,
    check_prompt_template,
    encode_conversations,
    encode_demonstrations,
    encode_groups,
    encode_prompts,
    encode_texts,
    pack,
)
from training.data.files import Row
from training.data.groups import shuffle_labels
from training.data.records import (
    Conversation,
    Demonstration,
    Prompt,
    Text,
    group_from_row,
    prompt_from_row,
    sft_record_from_row,
    text_from_row,
)
from training.data.sources import has_split, read_rows
from training.data.splits import split_by_prompt

logger = logging.getLogger(__name__)

R = TypeVar("R")
E = TypeVar("E")
Tokenizer = Any


@dataclass(frozen=True)
class Split(Generic[E]):
    """Encoded training and held-out data; `held_out` may be empty if nothing is held out."""

    train: list[E]
    held_out: list[E]


def load_sft(args: SFTArgs, tokenizer: Tokenizer) -> Split[EncodedText]:
    """Stage 1: demonstrations and conversations, or packed blocks of plain text."""
    if args.objective == "lm":
        texts = _records(args, "pretrain", text_from_row, key=lambda text: text.text)
        return _encoded(texts, lambda part: _packed(part, tokenizer, args.max_length))
    records = _records(args, "sft", sft_record_from_row, key=_sft_key)
    return _encoded(records, lambda part: _sft_rows(part, tokenizer, args))


def plain_texts(args: SFTArgs) -> list[str]:
    """Stage 1's training text as it stands in the data, for a tokenizer to be trained on."""
    stage = "pretrain" if args.objective == "lm" else "sft"
    from_row = text_from_row if args.objective == "lm" else sft_record_from_row
    texts = []
    for row, source in read_rows(args.data_path, stage=stage, split="train", seed=args.seed):
        record = from_row(row, source)
        if isinstance(record, Text):
            texts.append(record.text)
        elif isinstance(record, Demonstration):
            texts += [record.prompt, record.response]
        else:
            texts += [message.content for message in record.messages]
    return texts


def load_comparisons(args: RewardArgs, tokenizer: Tokenizer) -> Split[EncodedGroup]:
    """Stage 2: prompts with their responses and the comparisons among them."""
    records = _records(args, "reward", group_from_row, key=lambda group: group.prompt)
    template = check_prompt_template(args.prompt_template)
    split = _encoded(
        records,
        lambda part: encode_groups(
            part, tokenizer, max_length=args.max_length, prompt_template=template
        ),
    )
    if args.shuffle_labels:
        return Split(shuffle_labels(split.train, seed=args.seed), split.held_out)
    return split


def load_normalization_prompts(args: RewardArgs, tokenizer: Tokenizer) -> list[EncodedPrompt]:
    """Stage 2: distinct prompts that the SFT model answers to set the scale of the scores."""
    rows = read_rows(
        args.normalization_data_path or args.data_path,
        stage="ppo",
        split="train",
        seed=args.seed,
        convert=_conversion(args),
    )
    records: dict[str, Prompt] = {}
    for index, (row, source) in enumerate(rows):
        record = prompt_from_row(row, source, index)
        records.setdefault(record.text, record)
    prompts, _ = encode_prompts(
        list(records.values()),
        tokenizer,
        max_prompt_length=max(args.max_length - args.normalization_new_tokens, 1),
        prompt_template=check_prompt_template(args.prompt_template),
        chat_template=load_chat_template(args.chat_template),
        overlong="drop",
    )
    if not prompts:
        raise UserError(
            f"--normalization_new_tokens {args.normalization_new_tokens} leaves no prompt room in "
            f"--max_length {args.max_length}; lower it"
        )
    return prompts


def load_prompts(args: PPOArgs, tokenizer: Tokenizer) -> Split[EncodedPrompt]:
    """Stage 3: prompts to respond to."""
    counter = iter(range(2**62))

    def numbered(row: Any, source: str) -> Prompt:
        return prompt_from_row(row, source, next(counter))

    records = _records(args, "ppo", numbered, key=lambda prompt: prompt.text)
    template = check_prompt_template(args.prompt_template)
    chat_template = load_chat_template(args.chat_template)
    return _encoded(
        records,
        lambda part: encode_prompts(
            part,
            tokenizer,
            max_prompt_length=args.max_prompt_length,
            prompt_template=template,
            chat_template=chat_template,
            overlong=args.overlong_prompts,
        ),
    )


def _records(
    args: CommonArgs,
    stage: str,
    from_row: Callable[[Any, str], R],
    *,
    key: Callable[[R], str],
) -> tuple[list[R], list[R]]:
    """Training and held-out records, checked row by row."""
    read = partial(read_rows, stage=stage, seed=args.seed, convert=_conversion(args))
    rows = read(args.data_path, split="train", weights=args.data_weights)
    train = [from_row(row, source) for row, source in rows]
    own_dev = all(has_split(path, stage=stage, split="dev") for path in args.data_path)
    paths = args.eval_data_path or (args.data_path if own_dev else [])
    if paths:
        rows = read(paths, split="dev")
        held_out = [from_row(row, source) for row, source in rows]
        seen = {key(record) for record in held_out}
        kept = [record for record in train if key(record) not in seen]
        if len(kept) < len(train):
            logger.info("data: %d training rows left out: their prompt is held out",
                        len(train) - len(kept))  # fmt: skip
        train = kept
        if not train:
            raise UserError("--eval_data_path holds every prompt of --data_path; nothing to train")
    else:
        train, held_out = split_by_prompt(
            train, key, eval_fraction=args.eval_fraction, seed=args.seed
        )
    if args.max_eval_rows:
        held_out = held_out[: args.max_eval_rows]
    return train, held_out


def _conversion(args: CommonArgs) -> Callable[[list[Row], str], list[Row]] | None:
    """Stage 2 reads Label Studio's exports as well."""
    return partial(rows_of_export, args=args) if isinstance(args, RewardArgs) else None


def _encoded(
    records: tuple[list[R], list[R]],
    encode: Callable[[list[R]], tuple[list[E], EncodeReport]],
) -> Split[E]:
    train, held_out = records
    encoded, report = encode(train)
    logger.info("data: %s", report.summary())
    if not held_out:
        return Split(encoded, [])
    held, report = encode(held_out)
    logger.info("held out: %s", report.summary())
    return Split(encoded, held)


def _packed(
    texts: Sequence[Text], tokenizer: Tokenizer, block: int
) -> tuple[list[EncodedText], EncodeReport]:
    blocks = pack(encode_texts(texts, tokenizer), block)
    if not blocks:
        raise UserError("--data_path holds less than two tokens of text")
    tokens = sum(len(example.input_ids) for example in blocks)
    return blocks, EncodeReport(len(texts), 0, 0, tokens, f"--max_length {block}")


def _sft_rows(
    records: Sequence[Demonstration | Conversation], tokenizer: Tokenizer, args: SFTArgs
) -> tuple[list[EncodedText], EncodeReport]:
    """Rows of both kinds, demonstrations first."""
    chats = [record for record in records if isinstance(record, Conversation)]
    plain = [record for record in records if isinstance(record, Demonstration)]
    parts = []
    if plain:
        template = check_prompt_template(args.prompt_template)
        parts.append(
            encode_demonstrations(
                plain, tokenizer, max_length=args.max_length, prompt_template=template
            )
        )
    if chats:
        chat_template = load_chat_template(args.chat_template)
        parts.append(
            encode_conversations(
                chats, tokenizer, max_length=args.max_length, chat_template=chat_template
            )
        )
    rows = [row for encoded, _ in parts for row in encoded]
    reports = [report for _, report in parts]
    total = EncodeReport(
        rows=sum(report.rows for report in reports),
        truncated=sum(report.truncated for report in reports),
        dropped=sum(report.dropped for report in reports),
        tokens=sum(report.tokens for report in reports),
        limit=reports[0].limit,
    )
    return rows, total


def _sft_key(record: Demonstration | Conversation) -> str:
    if isinstance(record, Demonstration):
        return record.prompt
    first = next(turn for turn in record.messages if turn.role == "user")
    return first.content
