"""Write GPT-2 models of known sizes with random weights, and make random data for them."""

from pathlib import Path
from typing import Any

from training.estimates.shapes import ModelShape, read_shape

SHAPES = {  # layers, width, heads, vocabulary
    "micro": (2, 32, 2, 600),
    "tiny": (4, 256, 4, 8000),
    "small": (12, 768, 12, 50257),
    "medium": (24, 1024, 16, 50257),
}
EOS, PAD = "<|endoftext|>", "<|pad|>"


def get_vocabulary_size(size: str) -> int:
    """Return the number of tokens without PAD; the last one is EOS."""
    return SHAPES[size][3]


def make_shape(size: str) -> ModelShape:
    from transformers import GPT2Config

    from training.models.loading import build_meta_lm

    layers, width, heads, vocabulary = SHAPES[size]
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary)
    return read_shape(build_meta_lm(config, vocabulary))


def build_tokenizer(size: str) -> Any:
    """Build a tokenizer of the words `w0`, `w1`, ..., then EOS, then PAD."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast as Fast

    vocabulary = SHAPES[size][3]
    ids = {f"w{n}": n for n in range(vocabulary - 1)} | {EOS: vocabulary - 1, PAD: vocabulary}
    tokenizer = Tokenizer(models.WordLevel(ids, EOS))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"eos_token": EOS, "unk_token": EOS, "pad_token": PAD}
    return Fast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]


def write_models(size: str, positions: int, folder: Path) -> tuple[str, str]:
    """Write a causal LM and a reward model with the same random backbone; returns their folders."""
    import torch
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    layers, width, heads, vocabulary = SHAPES[size]
    config = GPT2Config(
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        vocab_size=vocabulary + 1,
        n_positions=max(positions, 64),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=vocabulary - 1,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary,
    )
    config.num_labels = 1
    tokenizer = build_tokenizer(size)
    torch.manual_seed(0)
    lm, reward_model = GPT2LMHeadModel(config), GPT2ForSequenceClassification(config)
    reward_model.transformer.load_state_dict(lm.transformer.state_dict())
    paths = []
    for name, model in (("lm", lm), ("reward", reward_model)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        paths.append(str(folder / name))
    return paths[0], paths[1]


def make_rows(lengths: list[int], vocabulary: int, seed: int) -> list[list[int]]:
    """Make a row of random token ids, without EOS, of each length."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, vocabulary - 1, (length,), generator=generator).tolist()
        for length in lengths
    ]


def make_lengths(count: int, shortest: int, longest: int, seed: int) -> list[int]:
    """Draw lengths uniformly from the range, both ends included."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
