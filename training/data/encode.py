"""Records to token ids, with every length rule in one place.

Prompt and response are tokenised apart and joined, so a prompt has the same tokens in all stages.
The tokenizer adds nothing; EOS is appended here and is always the last token of a response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from training.arguments.parsing import UserError
from training.data.chat import tokenize_chat, tokenize_plain
from training.data.records import (
    Conversation,
    Demonstration,
    Pair,
    Prompt,
    ResponseGroup,
    Text,
)
from training.data.values import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overlong = Literal["error", "drop", "truncate_left"]
E = TypeVar("E")


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
class Outcome(Generic[E]):
    """What became of one record; `row` is None where it has no room or nothing to learn from."""

    row: E | None
    cut: int = 0  # sequences that were cut
    dropped_pairs: int = 0  # comparisons whose two sides were cut to the same tokens


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
) -> list[Outcome[EncodedText]]:
    """Prompt and response with loss on the response; too long a response is cut before EOS."""
    eos = _eos(tokenizer)
    prompts = _prompt_ids([record.prompt for record in records], tokenizer, prompt_template)
    responses = tokenize_plain(tokenizer, [record.response for record in records])
    encoded: list[Outcome[EncodedText]] = []
    for record, prompt, response in zip(records, prompts, responses, strict=True):
        ids = _fit(prompt, response, eos, max_length)
        if ids is None:
            encoded.append(Outcome(None))
            continue
        mask = [False] * len(prompt) + [True] * len(ids)
        text = EncodedText(prompt + ids, mask, record.source)
        encoded.append(Outcome(text, int(len(ids) <= len(response))))
    return encoded


def encode_conversations(
    records: Sequence[Conversation],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    chat_template: str | None,
) -> list[Outcome[EncodedText]]:
    """Chat with loss on the assistant's turns and their ends; what follows the last is left out."""
    eos = _eos(tokenizer)
    encoded: list[Outcome[EncodedText]] = []
    for record in records:
        last = max(i for i, turn in enumerate(record.messages) if turn.role == "assistant")
        turns = record.messages[: last + 1]
        ids, mask = tokenize_chat(turns, tokenizer, chat_template, record.source, reply=False)
        ids, mask = _end_with_eos(ids, mask, eos)
        cut = len(ids) > max_length
        if cut:
            ids, mask = _end_with_eos(ids[: max_length - 1], mask[: max_length - 1], eos)
        text = EncodedText(ids, mask, record.source)
        encoded.append(Outcome(text, int(cut)) if ids else Outcome(None))
    return encoded


def encode_dialogues(
    records: Sequence[Demonstration | Conversation],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    prompt_template: str,
    chat_template: str | None,
) -> list[Outcome[EncodedText]]:
    """Rows of both kinds, in their order."""
    plain = encode_demonstrations(
        [record for record in records if isinstance(record, Demonstration)],
        tokenizer,
        max_length=max_length,
        prompt_template=prompt_template,
    )
    chats = encode_conversations(
        [record for record in records if isinstance(record, Conversation)],
        tokenizer,
        max_length=max_length,
        chat_template=chat_template,
    )
    next_of = {Demonstration: iter(plain), Conversation: iter(chats)}
    return [next(next_of[type(record)]) for record in records]


def encode_texts(
    records: Sequence[Text], tokenizer: "PreTrainedTokenizerBase"
) -> list[Outcome[EncodedText]]:
    """Each text's tokens and EOS, uncut: `blocks.Blocks` cuts. All are targets."""
    eos = _eos(tokenizer)
    texts = tokenize_plain(tokenizer, [record.text for record in records])
    return [Outcome(EncodedText([*ids, eos], [True] * (len(ids) + 1))) for ids in texts]


def encode_groups(
    records: Sequence[ResponseGroup],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    prompt_template: str,
    chat_template: str | None,
) -> list[Outcome[EncodedGroup]]:
    """Prompt, responses and pairs; pairs whose two sides the cut made equal are left out."""
    eos = _eos(tokenizer)
    plain = [record for record in records if not record.messages]
    prompts = iter(_prompt_ids([record.prompt for record in plain], tokenizer, prompt_template))
    flat = iter(tokenize_plain(tokenizer, [text for record in plain for text in record.responses]))
    encoded: list[Outcome[EncodedGroup]] = []
    for record in records:
        if record.messages:
            prompt, whole = _chat_group(record, tokenizer, chat_template, eos)
        else:
            prompt, whole = next(prompts), [next(flat) for _ in record.responses]
        encoded.append(_group(record, prompt, whole, eos, max_length))
    return encoded


def _group(
    record: ResponseGroup, prompt: list[int], whole: list[list[int]], eos: int, max_length: int
) -> Outcome[EncodedGroup]:
    fitted = [_fit(prompt, ids, eos, max_length) for ids in whole]
    responses = [ids for ids in fitted if ids is not None]
    if len(responses) < len(whole):  # a response of no tokens, or a prompt without room
        return Outcome(None)
    cut = sum(len(ids) <= len(all_ids) for ids, all_ids in zip(responses, whole, strict=True))
    pairs = tuple(p for p in record.pairs if responses[p.chosen] != responses[p.rejected])
    group = EncodedGroup(prompt, responses, pairs, record.source) if pairs else None
    return Outcome(group, cut, len(record.pairs) - len(pairs))


def _chat_group(
    record: ResponseGroup,
    tokenizer: "PreTrainedTokenizerBase",
    chat_template: str | None,
    eos: int,
) -> tuple[list[int], list[list[int]]]:
    """A conversation's tokens, and those of each answer to it without EOS.

    Together they are the tokens that stage 1 learns from, up to the answer's end.
    """
    prompt, _ = tokenize_chat(record.messages, tokenizer, chat_template, record.source, reply=True)
    responses = []
    for text in record.responses:
        turns = (*record.messages, Message("assistant", text))
        ids, mask = tokenize_chat(turns, tokenizer, chat_template, record.source, reply=False)
        ids, _ = _end_with_eos(ids, mask, eos)
        responses.append(ids[len(prompt) : -1])
    return prompt, responses


def encode_prompts(
    records: Sequence[Prompt],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_prompt_length: int,
    prompt_template: str,
    chat_template: str | None,
    overlong: Overlong,
) -> list[Outcome[EncodedPrompt]]:
    """Prompts in their order; conversations are rendered up to the assistant's next words."""
    texts = [record.text for record in records if not record.messages]
    from_text = iter(_prompt_ids(texts, tokenizer, prompt_template))
    encoded: list[Outcome[EncodedPrompt]] = []
    for record in records:
        if record.messages:
            source = record.source
            ids, _ = tokenize_chat(record.messages, tokenizer, chat_template, source, reply=True)
        else:
            ids = next(from_text)
        if not ids:
            raise UserError(f"{record.source}: the tokenizer makes no tokens of the prompt")
        cut = len(ids) > max_prompt_length
        if cut and overlong == "error":
            raise UserError(
                f"{record.source}: the prompt has {len(ids)} tokens, more than "
                f"--max_prompt_length {max_prompt_length}; raise it, or set "
                "--overlong_prompts drop or truncate_left"
            )
        if cut and overlong == "drop":
            encoded.append(Outcome(None))
            continue
        ids = ids[-max_prompt_length:]
        prompt = EncodedPrompt(record.prompt_id, ids, record.text, record.fields)
        encoded.append(Outcome(prompt, int(cut)))
    return encoded


def _eos(tokenizer: "PreTrainedTokenizerBase") -> int:
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise UserError("the tokenizer has no EOS token; set eos_token in its folder")
    return eos


def _prompt_ids(
    prompts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", template: str
) -> list[list[int]]:
    template = check_prompt_template(template)
    return tokenize_plain(tokenizer, [template.replace("{prompt}", prompt) for prompt in prompts])


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
