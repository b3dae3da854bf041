"""Write a tiny random GPT-2 to disk: checks an installation without any download."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers

from training.models.scalar import ScalarSettings, build_scalar_model, save_scalar_model
from training.models.sentencepieces import EOS
from training.models.tokenizers import PAD_TOKEN, Tokenizer, load_tokenizer


def write_tiny_lm(folder: Path, *, seed: int = 0) -> str:
    """Write a GPT-2 of two layers with dropout and a byte tokenizer; returns the folder."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = _build_byte_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=64,
        n_layer=2,
        n_head=2,
        initializer_range=0.1,  # larger than GPT-2's 0.02, so that it prefers some tokens to others
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm = GPT2LMHeadModel(config)
    # Not `lm.save_pretrained`, which writes on rank 0 only; each host needs the folder.
    config.architectures = [type(lm).__name__]
    config.save_pretrained(folder)
    weights = {name: weight.detach() for name, weight in lm.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    return str(folder)


def _build_byte_tokenizer() -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), EOS, PAD_TOKEN]
    ids = {name: index for index, name in enumerate(names)}
    pieces: Any = tokenizers.Tokenizer(models.BPE(ids, []))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=pieces, eos_token=EOS, pad_token=PAD_TOKEN)


def write_random_scorer(model: str, folder: Path, *, flag: str) -> str:
    """Write a reward model with an untrained head on the causal LM `model`; returns the folder."""
    tokenizer = load_tokenizer(model, flag=flag)
    scorer = build_scalar_model(
        model,
        ScalarSettings(head="mlp"),  # works for any architecture
        device=torch.device("cpu"),
        compute_dtype=torch.float32,
        tokens=len(tokenizer),
    )
    weights = {name: weight.detach() for name, weight in scorer.named_parameters()}
    save_scalar_model(scorer, weights, tokenizer, folder)
    return str(folder)
