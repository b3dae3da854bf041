"""Models that speak bytes, and what an evaluation of them is given: invented, made in memory."""

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast as Fast

from tests.tiny_models import gpt2, write_lm
from training.models.loading import load_causal_lm, save_causal_lm
from training.models.scalar import ScalarSettings, build_scalar_model, save_scalar_model
from training.models.tokenizers import load_tokenizer

EOS = "<|endoftext|>"
POSITIONS = 64

JUDGE = """
def score(texts):
    return [text.count("e") + 0.01 * len(text.encode()) for text in texts]
"""


def byte_tokenizer(*more: str, eos: str = EOS) -> Fast:
    """A token for every byte and, as GPT-2's, no PAD; so a character may take several tokens."""
    specials = [EOS, *more]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Fast(tokenizer_object=tokenizer, eos_token=eos, additional_special_tokens=list(more))


def write_model(folder: Path, *, seed: int, tokenizer: Fast | None = None) -> Path:
    """A GPT-2 folder as a user would bring it, with dropout 0.1."""
    tokenizer = tokenizer or byte_tokenizer()
    eos = tokenizer.eos_token_id
    lm = gpt2(len(tokenizer), seed=seed, n_positions=POSITIONS, eos_token_id=eos, bos_token_id=eos)
    write_lm(folder, lm, tokenizer)
    return folder


def write_reward_model(folder: Path, base: Path, *, seed: int = 5) -> Path:
    """A stage-2 folder with a random head, on `base` as stage 1 would have saved it."""
    cpu = torch.device("cpu")
    tokenizer = load_tokenizer(str(base), flag="--base")
    lm = load_causal_lm(str(base), tokenizer, device=cpu, dropout=None)
    with TemporaryDirectory() as sft, torch.random.fork_rng():
        torch.manual_seed(seed)
        save_causal_lm(lm, lm.state_dict(), tokenizer, Path(sft))
        settings = ScalarSettings(score_mean=0.5, score_std=2.0)
        model = build_scalar_model(sft, settings, device=cpu, compute_dtype=torch.float32)
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    save_scalar_model(model, weights, tokenizer, folder)
    return folder


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"tell me {'more ' * (n % 4)}of {n}:", "place": f"p{n % 5}"}
            for n in range(count)]  # fmt: skip


def comparisons(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"of {n}:",
            "responses": [f" the sea {n}", " a stone", f" {n} boats"],
            "pairs": [[0, 1], [1, 2, 0.8], [0, 2]],
            "gaps": [1.5, 0.5, 2.0],
        }
        for n in range(count)
    ]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_material(root: Path) -> Path:
    """before, after, reward, other_words, prompts.jsonl, comparisons.jsonl, judge.py."""
    write_model(root / "before", seed=0)
    write_model(root / "after", seed=1)
    write_reward_model(root / "reward", root / "before")
    write_model(root / "other_words", seed=2, tokenizer=byte_tokenizer("<extra>"))
    write_jsonl(root / "prompts.jsonl", prompts(24))
    write_jsonl(root / "comparisons.jsonl", comparisons(12))
    (root / "judge.py").write_text(JUDGE, encoding="utf-8")
    return root
