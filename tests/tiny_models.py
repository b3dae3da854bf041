"""A tokenizer and causal LMs of two layers, made in memory; each config has dropout 0.1.

Words are `w0`, `w1`, ... so that a test can write token ids and text alike.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Fast

from training.models.loading import load_causal_lm
from training.models.scalar import ScalarModel, ScalarSettings, build_scalar_model

CPU = torch.device("cpu")
EOS, PAD = "<|endoftext|>", "<|pad|>"
WORDS = [*(f"w{n}" for n in range(93)), "User:", "Assistant:", "<unk>", EOS]
EOS_ID, PAD_ID = len(WORDS) - 1, len(WORDS)
POSITIONS = 48

# Far from GPT-2's 0.02, so that a tiny model prefers some tokens to others.
SPREAD = 0.25


def build_tokenizer(words: list[str] = WORDS, *, pad: str | None = PAD) -> Fast:
    """One token per word; without a PAD, as GPT-2's, if `pad` is None."""
    every = [*words, pad] if pad and pad not in words else words
    ids = {word: index for index, word in enumerate(every)}
    tokenizer = Tokenizer(models.WordLevel(ids, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    names = {"eos_token": EOS, "unk_token": "<unk>", **({"pad_token": pad} if pad else {})}
    return Fast(tokenizer_object=tokenizer, **names)


def gpt2(tokens: int, *, seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
    fields = {
        "vocab_size": tokens,
        "n_positions": POSITIONS,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "initializer_range": SPREAD,
        "bos_token_id": EOS_ID,
        "eos_token_id": EOS_ID,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(**{**fields, **changes}))


def llama(tokens: int, *, seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=tokens,
        max_position_embeddings=POSITIONS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_dropout=0.1,
        initializer_range=SPREAD,
        bos_token_id=EOS_ID,
        eos_token_id=EOS_ID,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def write_lm(folder: Path, lm: Any, tokenizer: Fast | None = None) -> str:
    """Write a Hugging Face folder, as a user would have it."""
    lm.save_pretrained(folder)
    (tokenizer or build_tokenizer()).save_pretrained(folder)
    return str(folder)


def load_lm(path: str) -> Any:
    """Load a model as stage 3 does, but in training mode, which shows dropout left on."""
    return load_causal_lm(path, build_tokenizer(), device=CPU, dropout=0.0).train()


def scalar_model(path: str, settings: ScalarSettings, *, tokens: int = 0) -> ScalarModel:
    """The backbone of the model in `path` under a new head, in training mode."""
    model = build_scalar_model(
        path, settings, device=CPU, compute_dtype=torch.float32, tokens=tokens
    )
    return model.train()


def rows_of(lengths: list[int], *, seed: int = 0) -> list[list[int]]:
    """Rows of random words, no special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(93, (length,), generator=generator).tolist() for length in lengths]


def padded(
    rows: list[list[int]], *, left: int = 0, right: int = 0, fill: int = PAD_ID
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask [B, L]; `left` and `right` are pads around even the longest row.

    Shorter rows are padded on the right or, when `left` is not 0, on the left.
    """
    width = max(map(len, rows))
    tokens = torch.full((len(rows), left + width + right), fill)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for index, row in enumerate(rows):
        start = left + (width - len(row) if left else 0)
        tokens[index, start : start + len(row)] = torch.tensor(row)
        mask[index, start : start + len(row)] = True
    return tokens, mask


@torch.no_grad()
def readings(model: ScalarModel, rows: list[list[int]], **padding: int) -> list[torch.Tensor]:
    """A scalar model's readings of each row's own tokens, the rows read together."""
    tokens, mask = padded(rows, **padding)
    return list(torch.split(model(tokens, mask)[mask], [len(row) for row in rows]))


@torch.no_grad()
def scores(model: ScalarModel, rows: list[list[int]], **padding: int) -> torch.Tensor:  # [B]
    """A scalar model's scores of these rows, read together."""
    tokens, mask = padded(rows, **padding)
    return ScalarModel.scores(model(tokens, mask), mask)
