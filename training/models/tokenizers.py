"""Load tokenizers, give them a PAD token, and compare those of two stages."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from training.arguments.parsing import UserError
from training.models.folders import NO_CODE, refuse_code
from training.models.sentencepieces import make_tokenizer
from training.paths import is_local, not_there

PAD_TOKEN = "<|pad|>"
GIVE_ONE = "give a folder of a model with its tokenizer, or a name such as gpt2"

# transformers' fast tokenizers share no public base class that its type stubs describe.
Tokenizer = Any


def load_tokenizer(path: str, *, flag: str) -> Tokenizer:
    """Load the tokenizer of a folder, Hub name or SentencePiece `.model`, with PAD other than EOS.

    GPT-2 has no PAD token. Padding with EOS would hide real EOS tokens from every mask made by
    id, so a `<|pad|>` token is added; `load_causal_lm` gives it an embedding row.
    """
    is_here = Path(path).expanduser().exists()
    nothing_there = f"{flag}: no tokenizer in {not_there(path)}; {GIVE_ONE}"
    if path.endswith(".model") and not Path(path).expanduser().is_dir():
        try:
            data = Path(path).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"{flag}: {path} cannot be read: {error.strerror}") from error
        return make_tokenizer(data, name=f"{flag}: {path}")
    if is_local(path) and not is_here:
        raise UserError(nothing_there)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **NO_CODE)
    except Exception as error:  # tokenizers raises a bare one for a file that it cannot read
        refuse_code(error, path, flag=flag)
        if not is_here:
            raise UserError(nothing_there) from error
        raise UserError(f"{flag}: no tokenizer can be loaded from {path}: {error}") from error
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):  # made of a config.json alone
        raise UserError(f"{flag}: no tokenizer in {path}; {GIVE_ONE}")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{flag}: the tokenizer of {path} has no EOS token; set eos_token in it")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


def has_same_tokens(first: Tokenizer, second: Tokenizer) -> bool:
    """True if both give every token the same id."""
    same: bool = first.get_vocab() == second.get_vocab()
    return same and first.eos_token_id == second.eos_token_id


def check_same_tokenizer(first: Tokenizer, second: Tokenizer, first_path: str, path: str) -> None:
    """Raise `UserError` unless both give every token the same id."""
    if not has_same_tokens(first, second):
        raise UserError(
            f"the tokenizers of {first_path} and {path} differ ({len(first)} and {len(second)} "
            "tokens); train the reward model from the same stage-1 model"
        )
