"""Records to token ids, with every length rule in one place.

Prompt and response are tokenised apart and joined, so a prompt has the same tokens in all stages.
The tokenizer adds nothing; EOS is appended here and is always the last token of a response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from training.arguments.parsing import UserError
from training.data.chat import chat_ids, plain_ids
from training.data.records import (
    Conversation,
    Demonstration,
    Pair,
    Prompt,
    ResponseGroup,
    Text,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overlong = Literal["error", "drop", "truncate_left"]


@dataclass(frozen=True)
class EncodedText:
    """One training sequence; `loss_mask[i]` says that token i is to be predicted."""

    input_ids: list[int]
    loss_mask: list[bool]
    source: str = field(default="", compare=False)  # file and line; empty for a block of texts


@dataclass(frozen=True)
class EncodedGroup:
    """One prompt, its responses (each ends with EOS), and the comparisons among them."""

    prompt_ids: list[int]
    response_ids: list[list[int]]
    pairs: tuple[Pair, ...]
    source: str


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt's tokens; `text` is the user's own wording, without the template."""

    prompt_id: int
    input_ids: list[int]
    text: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class EncodeReport:
    """What became of the rows on the way to tokens."""

    rows: int
    truncated: int  # rows (in groups: responses) that were cut
    dropped: int  # rows left out
    tokens: int  # in the rows that are left
    limit: str  # the flag that set the length, with its value
    dropped_pairs: int = 0  # comparisons whose two sides were cut to the same tokens

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


def check_prompt_template(template: str) -> str:
    r"""The template with `\n` and `\t`, as a shell passes them, made into what they mean."""
    if template.count("{prompt}") != 1:
        raise UserError(f"--prompt_template must contain {{prompt}} once, got {template!r}")
    return template.replace("\\n", "\n").replace("\\t", "\t")


def encode_demonstrations(
    records: Sequence[Demonstration],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    prompt_template: str,
) -> tuple[list[EncodedText], EncodeReport]:
    """Prompt and response with loss on the response; too long a response is cut before EOS."""
    eos = _eos(tokenizer)
    prompts = _prompt_ids([record.prompt for record in records], tokenizer, prompt_template)
    responses = plain_ids(tokenizer, [record.response for record in records])
    encoded = []
    truncated = 0
    for record, prompt, response in zip(records, prompts, responses, strict=True):
        ids = _fit(prompt, response, eos, max_length)
        if ids is None:
            continue
        truncated += len(ids) <= len(response)
        mask = [False] * len(prompt) + [True] * len(ids)
        encoded.append(EncodedText(prompt + ids, mask, record.source))
    return _text_report(encoded, len(records), truncated, max_length)


def encode_conversations(
    records: Sequence[Conversation],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    chat_template: str | None,
) -> tuple[list[EncodedText], EncodeReport]:
    """Chat with loss on the assistant's turns and their ends; what follows the last is left out."""
    eos = _eos(tokenizer)
    encoded = []
    truncated = 0
    for record in records:
        last = max(i for i, turn in enumerate(record.messages) if turn.role == "assistant")
        turns = record.messages[: last + 1]
        ids, mask = chat_ids(turns, tokenizer, chat_template, record.source, reply=False)
        ids, mask = _end_with_eos(ids, mask, eos)
        if len(ids) > max_length:
            ids, mask = _end_with_eos(ids[: max_length - 1], mask[: max_length - 1], eos)
            truncated += bool(ids)
        if ids:
            encoded.append(EncodedText(ids, mask, record.source))
    return _text_report(encoded, len(records), truncated, max_length)


def encode_texts(records: Sequence[Text], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Each text's tokens and EOS, uncut: `pack` cuts."""
    eos = _eos(tokenizer)
    return [[*ids, eos] for ids in plain_ids(tokenizer, [record.text for record in records])]


def pack(texts: Sequence[Sequence[int]], block: int) -> list[EncodedText]:
    """All texts in one row, cut into blocks of `block` tokens; the last may be shorter.

    Every token is a target but a block's first, which nothing in its block predicts. A last block
    of one token is left out.
    """
    if block < 2:
        raise ValueError(f"block must be at least 2, got {block}")
    tokens = [token for text in texts for token in text]
    blocks = [tokens[start : start + block] for start in range(0, len(tokens), block)]
    return [EncodedText(ids, [False] + [True] * (len(ids) - 1)) for ids in blocks if len(ids) >= 2]


def encode_groups(
    records: Sequence[ResponseGroup],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    prompt_template: str,
) -> tuple[list[EncodedGroup], EncodeReport]:
    """Prompt, responses and pairs; pairs whose two sides the cut made equal are left out."""
    eos = _eos(tokenizer)
    prompts = _prompt_ids([record.prompt for record in records], tokenizer, prompt_template)
    flat = iter(plain_ids(tokenizer, [text for record in records for text in record.responses]))
    encoded = []
    truncated = dropped_pairs = 0
    for record, prompt in zip(records, prompts, strict=True):
        whole = [next(flat) for _ in record.responses]
        fitted = [_fit(prompt, ids, eos, max_length) for ids in whole]
        responses = [ids for ids in fitted if ids is not None]
        if len(responses) < len(whole):  # a response of no tokens, or a prompt without room
            continue
        truncated += sum(len(cut) <= len(ids) for cut, ids in zip(responses, whole, strict=True))
        pairs = tuple(p for p in record.pairs if responses[p.chosen] != responses[p.rejected])
        dropped_pairs += len(record.pairs) - len(pairs)
        if pairs:
            encoded.append(EncodedGroup(prompt, responses, pairs, record.source))
    tokens = sum(len(g.prompt_ids) + len(ids) for g in encoded for ids in g.response_ids)
    report = _report(len(records), len(encoded), truncated, tokens, f"--max_length {max_length}")
    return encoded, replace(report, dropped_pairs=dropped_pairs)


def encode_prompts(
    records: Sequence[Prompt],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_prompt_length: int,
    prompt_template: str,
    chat_template: str | None,
    overlong: Overlong,
) -> tuple[list[EncodedPrompt], EncodeReport]:
    """Prompts in their order; conversations are rendered up to the assistant's next words."""
    texts = [record.text for record in records if not record.messages]
    from_text = iter(_prompt_ids(texts, tokenizer, prompt_template))
    encoded = []
    truncated = 0
    for record in records:
        if record.messages:
            source = record.source
            ids, _ = chat_ids(record.messages, tokenizer, chat_template, source, reply=True)
        else:
            ids = next(from_text)
        if not ids:
            raise UserError(f"{record.source}: the tokenizer makes no tokens of the prompt")
        if len(ids) > max_prompt_length:
            if overlong == "error":
                raise UserError(
                    f"{record.source}: the prompt has {len(ids)} tokens, more than "
                    f"--max_prompt_length {max_prompt_length}; raise it, or set "
                    "--overlong_prompts drop or truncate_left"
                )
            if overlong == "drop":
                continue
            truncated += 1
            ids = ids[-max_prompt_length:]
        encoded.append(EncodedPrompt(record.prompt_id, ids, record.text, record.fields))
    tokens = sum(len(prompt.input_ids) for prompt in encoded)
    limit = f"--max_prompt_length {max_prompt_length}"
    return encoded, _report(len(records), len(encoded), truncated, tokens, limit)


def _eos(tokenizer: "PreTrainedTokenizerBase") -> int:
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise UserError("the tokenizer has no EOS token; set eos_token in its folder")
    return eos


def _prompt_ids(
    prompts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", template: str
) -> list[list[int]]:
    template = check_prompt_template(template)
    return plain_ids(tokenizer, [template.replace("{prompt}", prompt) for prompt in prompts])


def _fit(prompt: list[int], response: list[int], eos: int, max_length: int) -> list[int] | None:
    """The response with EOS, cut to the room that the prompt leaves; None without any room."""
    room = max_length - len(prompt) - 1
    if not prompt or not response or room < 1:
        return None
    return [*response[:room], eos]


def _end_with_eos(ids: list[int], mask: list[bool], eos: int) -> tuple[list[int], list[bool]]:
    """Leave out what follows the last target and make EOS the last one; all empty without any."""
    if True not in mask:
        return [], []
    end = len(mask) - mask[::-1].index(True)
    ids, mask = ids[:end], mask[:end]
    return (ids, mask) if ids[-1] == eos else ([*ids, eos], [*mask, True])


def _text_report(
    encoded: list[EncodedText], rows: int, truncated: int, max_length: int
) -> tuple[list[EncodedText], EncodeReport]:
    tokens = sum(len(text.input_ids) for text in encoded)
    return encoded, _report(rows, len(encoded), truncated, tokens, f"--max_length {max_length}")


def _report(rows: int, kept: int, truncated: int, tokens: int, limit: str) -> EncodeReport:
    if rows and not kept:
        raise UserError(f"none of the {rows} rows fits {limit}; raise it")
    return EncodeReport(rows, truncated, rows - kept, tokens, limit)
