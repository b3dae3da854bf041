"""Talk to a saved model: replies are streamed as text."""

from collections.abc import Callable, Sequence

import torch

from training.arguments.chat import ChatArgs
from training.arguments.parsing import UserError
from training.data.chat import add_templates
from training.data.values import Message
from training.evaluation import sampling
from training.hybrid_engine.sampling import SampleKey
from training.models.loading import count_positions
from training.models.tokenizers import Tokenizer
from training.runtime.engine import compute_dtype

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a character's first bytes decode to


class Conversation:
    """A model and the turns so far.

    With a chat template (or --mode chat) each line is a turn of the conversation; otherwise each
    line is a prompt of its own in --prompt_template.
    """

    def __init__(self, args: ChatArgs, device: torch.device) -> None:
        config, self._tokenizer = sampling.check_language_model(args.model, flag="--model")
        self._args = args
        self._templates = add_templates(self._tokenizer, args)
        has_template = bool(self._templates.chat_template or self._tokenizer.chat_template)
        prefers_chat = has_template and args.prompt_template == "{prompt}"
        self.is_chat = args.mode == "chat" or (args.mode == "auto" and prefers_chat)
        dtype = compute_dtype(args.dtype, device)
        self._policy = sampling.load_policy(
            args.model, self._tokenizer, flag="--model", device=device, dtype=dtype
        )
        self._limit = count_positions(config)
        self._history: list[Message] = []
        self._asked = 0

    def reply(self, line: str, on_text: Callable[[str], None]) -> str:
        """Respond to a line, passing each piece of text to `on_text` as soon as it is complete.

        The oldest turns are dropped when the model has no room for them.
        """
        prompt = self._encode(line)
        if not prompt:
            raise UserError("the tokenizer makes no tokens of that")
        limit = self._limit_response(prompt)
        key = SampleKey(self._args.seed, 0, self._asked, 0)
        self._asked += 1
        stream = TextStream(self._tokenizer, prompt, on_text)
        length = min(self._args.max_new_tokens, limit)
        settings = sampling.make_sampling(self._args, max_new_tokens=length)
        engine = sampling.make_hybrid_engine(self._policy, self._tokenizer, settings, batch_size=1)
        engine.stream(prompt, key, stream.add)
        if self.is_chat and stream.text.strip():
            self._history += [Message("user", line), Message("assistant", stream.text.strip())]
        return stream.text

    def forget(self) -> None:
        """Drop all turns."""
        self._history = []

    def _encode(self, line: str) -> list[int]:
        """Return the token ids of the prompt; drops old turns to make room."""
        if not self.is_chat:
            return self._templates.tokenize_prompts([line])[0]
        while True:
            turns = [*self._history, Message("user", line)]
            ids, _ = self._templates.tokenize_chat(turns, "this turn", reply=True)
            wanted = len(ids) + self._args.max_new_tokens
            if not self._history or self._limit is None or wanted <= self._limit:
                return ids
            self._history = self._history[2:]

    def _limit_response(self, prompt: Sequence[int]) -> int:
        """Return how many tokens the response may have."""
        if self._limit is None:
            return self._args.max_new_tokens
        if len(prompt) >= self._limit:
            raise UserError(
                f"that prompt has {len(prompt)} tokens, and the model has {self._limit} positions "
                "for prompt and response; shorten it"
            )
        return self._limit - len(prompt)


class TextStream:
    """Turns tokens into text: a character is passed on once all of its bytes are there."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], on_text: Callable[[str], None]
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._on_text = on_text
        self._ids: list[int] = []
        self.text = ""  # passed on so far

    def add(self, token: int) -> None:
        """Add the next token of the response."""
        self._ids.append(token)
        whole = sampling.decode_responses(self._tokenizer, [self._prompt], [self._ids])[0]
        known = whole.rstrip(UNFINISHED)
        if len(known) > len(self.text):
            self._on_text(known[len(self.text) :])
            self.text = known
