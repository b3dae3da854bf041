"""Conversations to token ids, with the assistant's turns marked.

A conversation is rendered turn by turn, and each segment between two borders of an assistant turn
is tokenized apart. So its tokens are the same as a prompt and as the head of a training row, and
the chat template need not mark the assistant's turns.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.arguments.common import TemplateArgs
from training.arguments.parsing import UserError
from training.data.values import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Segment = tuple[str, bool]  # text, and True for an assistant's turn

# Replaces a special token's text in a message while the template is rendered; the tokenizer then
# reads it as plain text. The characters are in Unicode's private range.
_HIDDEN = re.compile("\ue000\ue001(\\d+)\ue001\ue000")


def load_chat_template(path: str) -> str | None:
    """Read the Jinja text in a file; None for an empty path (then the tokenizer's template)."""
    if not path:
        return None
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--chat_template: cannot read {path}: {error}") from error
    if "messages" not in text:
        raise UserError(f"--chat_template: {path} never uses `messages`; it is no chat template")
    return text


@dataclass(frozen=True)
class TemplateTokenizer:
    """A tokenizer with the templates around prompts and conversations."""

    tokenizer: "PreTrainedTokenizerBase"
    prompt_template: str = "{prompt}"  # --prompt_template; a shell may have left \\n and \\t in it
    chat_template: str | None = None  # Jinja text; None takes the tokenizer's

    @property
    def eos(self) -> int:
        eos = self.tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise UserError("the tokenizer has no EOS token; set eos_token in its folder")
        return eos

    def tokenize_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        template = self.prompt_template.replace("\\n", "\n").replace("\\t", "\t")
        texts = [template.replace("{prompt}", prompt) for prompt in prompts]
        return self.tokenize_texts(texts)

    def tokenize_texts(self, texts: Sequence[str]) -> list[list[int]]:
        return tokenize_plain(self.tokenizer, texts)

    def tokenize_chat(
        self, messages: Sequence[Message], source: str, *, reply: bool
    ) -> tuple[list[int], list[bool]]:
        """Return token ids, and a mask of the assistant's turns (with their ends).

        Without any chat template a plain layout has EOS after each assistant turn. With `reply`
        the ids end where the assistant continues.
        """
        template = self.chat_template
        if template is None and self.tokenizer.chat_template:
            template = self.tokenizer.get_chat_template()
        specials = sorted(map(str, self.tokenizer.all_special_tokens), key=len, reverse=True)
        if template is None:
            segments = _split_plain(messages, reply=reply)
        else:
            hidden = [Message(m.role, _hide(m.content, specials)) for m in messages]
            segments = self._render_segments(hidden, template, source, reply=reply)
        eos = self.tokenizer.eos_token_id
        ids: list[int] = []
        mask: list[bool] = []
        for text, is_target in segments:
            if template is None:
                segment = self.tokenize_texts([text])[0] + [eos] * is_target
            else:
                segment = self._tokenize_segment(text, specials)
            # What a template writes after a turn's end (mostly a line break) is never generated.
            end = segment.index(eos) + 1 if eos in segment else len(segment)
            ids += segment
            mask += [is_target and i < end for i in range(len(segment))]
        return ids, mask

    def _render_segments(
        self, messages: Sequence[Message], template: str, source: str, *, reply: bool
    ) -> list[Segment]:
        segments: list[Segment] = []
        done = ""

        def add(count: int, is_target: bool, generation_prompt: bool) -> None:
            nonlocal done
            text = self._render(messages[:count], template, source, generation_prompt)
            if not text.startswith(done):
                raise UserError(
                    f"{source}: the chat template does not render turn by turn: with {count} of "
                    f"{len(messages)} messages it changes the text before them; give another with "
                    "--chat_template"
                )
            segments.append((text[len(done) :], is_target))
            done = text

        for number, message in enumerate(messages):
            if message.role == "assistant":
                add(number, False, True)
                add(number + 1, True, False)
        if reply or messages[-1].role != "assistant":
            add(len(messages), False, reply)
        return segments

    def _render(
        self, messages: Sequence[Message], template: str, source: str, generation_prompt: bool
    ) -> str:
        import jinja2

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UserError(f"{source}: the chat template fails on this row: {error}") from error
        return str(text)

    def _tokenize_segment(self, text: str, specials: list[str]) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(_HIDDEN.split(text)):
            if number % 2:  # the number of a hidden special token
                ids += self.tokenize_texts([specials[int(piece)]])[0]
            elif piece:
                # Special tokens that the template wrote count as such.
                ids += self.tokenizer(
                    piece, add_special_tokens=False, split_special_tokens=False, verbose=False
                )["input_ids"]
        return ids


def add_templates(tokenizer: "PreTrainedTokenizerBase", args: TemplateArgs) -> TemplateTokenizer:
    return TemplateTokenizer(
        tokenizer, args.prompt_template, load_chat_template(args.chat_template)
    )


def tokenize_plain(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Tokenize each text: nothing is added, and special tokens' text is plain text."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
    )
    return [list(ids) for ids in encoded["input_ids"]]


def _split_plain(messages: Sequence[Message], *, reply: bool) -> list[Segment]:
    """ "User:\\n...\\n\\nAssistant:\\n..." for tokenizers that know no chat."""
    segments: list[Segment] = []
    text = ""
    for number, message in enumerate(messages):
        text += "\n\n" if number else ""
        text += f"{message.role.capitalize()}:\n"
        if message.role == "assistant":
            segments += [(text, False), (message.content, True)]
            text = ""
        else:
            text += message.content
    if reply:
        text += "\n\nAssistant:\n"
    return [*segments, (text, False)] if text else segments


def _hide(text: str, specials: list[str]) -> str:
    for number, special in enumerate(specials):
        text = text.replace(special, f"\ue000\ue001{number}\ue001\ue000")
    return text
