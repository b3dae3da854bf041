"""Records to token ids, with every length rule in one place, and a report of what was cut.

Prompt and response are tokenized apart and joined, so a prompt has the same tokens in all stages.
The tokenizer adds nothing; EOS is appended here and is always the last token of a response.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Generic, Literal, TypeVar

from training.arguments.parsing import UserError
from training.data.chat import TemplateTokenizer
from training.data.records import Conversation, Demonstration, Pair, Prompt, ResponseGroup, Text
from training.data.values import Message

Overlong = Literal["error", "drop", "truncate_left"]
UNNUMBERED = repeat(-1)


@dataclass(frozen=True)
class EncodedText:
    """One training sequence; `loss_mask[i]` is true if token i is to be predicted."""

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
    """A prompt's tokens; `text` has no template.

    `prompt_id` is its number in the data, -1 as long as that is not known.
    """

    prompt_id: int
    input_ids: list[int]
    text: str
    fields: Mapping[str, str]


E = TypeVar("E", bound=EncodedText | EncodedGroup | EncodedPrompt)


@dataclass(frozen=True)
class Outcome(Generic[E]):
    """The encoded row of a record; None if it does not fit or has nothing to learn from."""

    row: E | None
    cut: int = 0  # sequences that were cut
    dropped_pairs: int = 0  # comparisons whose two sides were cut to the same tokens


def count_tokens(row: EncodedText | EncodedGroup | EncodedPrompt) -> list[int]:
    """Count the tokens of each sequence of a row: in groups, the prompt with each response."""
    if isinstance(row, EncodedGroup):
        return [len(row.prompt_ids) + len(ids) for ids in row.response_ids]
    return [len(row.input_ids)]


def encode_dialogues(
    records: Sequence[Demonstration | Conversation],
    tokenizer: TemplateTokenizer,
    *,
    max_length: int,
) -> list[Outcome[EncodedText]]:
    """Encode demonstrations and conversations, with loss on the assistant's words and EOS.

    Too long a row is cut before EOS. What follows a conversation's last reply is dropped.
    """
    eos = tokenizer.eos
    plain = [record for record in records if isinstance(record, Demonstration)]
    prompts = tokenizer.tokenize_prompts([record.prompt for record in plain])
    responses = tokenizer.tokenize_texts([record.response for record in plain])
    demonstrations = zip(prompts, responses, strict=True)
    encoded: list[Outcome[EncodedText]] = []
    for record in records:
        if isinstance(record, Conversation):
            encoded.append(_encode_conversation(record, tokenizer, eos, max_length))
            continue
        prompt, response = next(demonstrations)
        ids = _fit_response(prompt, response, eos, max_length)
        if ids is None:
            encoded.append(Outcome(None))
            continue
        mask = [False] * len(prompt) + [True] * len(ids)
        text = EncodedText(prompt + ids, mask, record.source)
        encoded.append(Outcome(text, int(len(ids) <= len(response))))
    return encoded


def _encode_conversation(
    record: Conversation, tokenizer: TemplateTokenizer, eos: int, max_length: int
) -> Outcome[EncodedText]:
    last = max(i for i, turn in enumerate(record.messages) if turn.role == "assistant")
    turns = record.messages[: last + 1]
    ids, mask = tokenizer.tokenize_chat(turns, record.source, reply=False)
    ids, mask = _end_with_eos(ids, mask, eos)
    cut = len(ids) > max_length
    if cut:
        ids, mask = _end_with_eos(ids[: max_length - 1], mask[: max_length - 1], eos)
    return Outcome(EncodedText(ids, mask, record.source), int(cut)) if ids else Outcome(None)


def encode_texts(
    records: Sequence[Text], tokenizer: TemplateTokenizer
) -> list[Outcome[EncodedText]]:
    """Encode each text with EOS, uncut (`tables.Blocks` cuts), with loss on all tokens."""
    eos = tokenizer.eos
    texts = tokenizer.tokenize_texts([record.text for record in records])
    return [Outcome(EncodedText([*ids, eos], [True] * (len(ids) + 1))) for ids in texts]


def encode_groups(
    records: Sequence[ResponseGroup], tokenizer: TemplateTokenizer, *, max_length: int
) -> list[Outcome[EncodedGroup]]:
    """Encode prompts and their responses; drop pairs whose two sides the cut made equal."""
    eos = tokenizer.eos
    plain = [record for record in records if not record.messages]
    prompts = iter(tokenizer.tokenize_prompts([record.prompt for record in plain]))
    flat = iter(tokenizer.tokenize_texts([text for record in plain for text in record.responses]))
    encoded: list[Outcome[EncodedGroup]] = []
    for record in records:
        if record.messages:
            prompt, whole = _tokenize_chat_group(record, tokenizer, eos)
        else:
            prompt, whole = next(prompts), [next(flat) for _ in record.responses]
        fitted = [_fit_response(prompt, ids, eos, max_length) for ids in whole]
        responses = [ids for ids in fitted if ids is not None]
        if len(responses) < len(whole):  # a response of no tokens, or a prompt without room
            encoded.append(Outcome(None))
            continue
        cut = sum(len(ids) <= len(all_ids) for ids, all_ids in zip(responses, whole, strict=True))
        pairs = tuple(p for p in record.pairs if responses[p.chosen] != responses[p.rejected])
        group = EncodedGroup(prompt, responses, pairs, record.source) if pairs else None
        encoded.append(Outcome(group, cut, len(record.pairs) - len(pairs)))
    return encoded


def _tokenize_chat_group(
    record: ResponseGroup, tokenizer: TemplateTokenizer, eos: int
) -> tuple[list[int], list[list[int]]]:
    """Tokenize a conversation and each answer to it, without EOS.

    Together they are the tokens that stage 1 learns from, up to the answer's end.
    """
    prompt, _ = tokenizer.tokenize_chat(record.messages, record.source, reply=True)
    responses = []
    for text in record.responses:
        turns = (*record.messages, Message("assistant", text))
        ids, mask = tokenizer.tokenize_chat(turns, record.source, reply=False)
        ids, _ = _end_with_eos(ids, mask, eos)
        responses.append(ids[len(prompt) : -1])
    return prompt, responses


def encode_prompts(
    records: Sequence[Prompt],
    tokenizer: TemplateTokenizer,
    *,
    max_prompt_length: int,
    overlong: Overlong,
    prompt_ids: Iterable[int] = UNNUMBERED,
) -> list[Outcome[EncodedPrompt]]:
    """Encode prompts; conversations are rendered up to the assistant's next words."""
    texts = [record.text for record in records if not record.messages]
    plain = iter(tokenizer.tokenize_prompts(texts))
    encoded: list[Outcome[EncodedPrompt]] = []
    for record, prompt_id in zip(records, prompt_ids, strict=False):
        source = record.source
        if record.messages:
            ids, _ = tokenizer.tokenize_chat(record.messages, source, reply=True)
        else:
            ids = next(plain)
        if not ids:
            raise UserError(f"{source}: the tokenizer makes no tokens of the prompt")
        cut = len(ids) > max_prompt_length
        if cut and overlong == "error":
            raise UserError(
                f"{source}: the prompt has {len(ids)} tokens, more than "
                f"--max_prompt_length {max_prompt_length}; raise it, or set "
                "--overlong_prompts drop or truncate_left"
            )
        if cut and overlong == "drop":
            encoded.append(Outcome(None))
            continue
        ids = ids[-max_prompt_length:]
        prompt = EncodedPrompt(prompt_id, ids, record.text, record.fields)
        encoded.append(Outcome(prompt, int(cut)))
    return encoded


def _fit_response(
    prompt: list[int], response: list[int], eos: int, max_length: int
) -> list[int] | None:
    """Cut the response to the room that the prompt leaves, and add EOS; None without any room."""
    room = max_length - len(prompt) - 1
    if not prompt or not response or room < 1:
        return None
    return [*response[:room], eos]


def _end_with_eos(ids: list[int], mask: list[bool], eos: int) -> tuple[list[int], list[bool]]:
    """Drop what follows the last target and put EOS there; return ([], []) without a target."""
    if True not in mask:
        return [], []
    end = len(mask) - mask[::-1].index(True)
    ids, mask = ids[:end], mask[:end]
    return (ids, mask) if ids[-1] == eos else ([*ids, eos], [*mask, True])


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
