"""Log-probs and scores of saved folders by plain `transformers`, without padding or batches."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from training.models.scalar import ScalarModel, load_scalar_model, read_settings


@cache
def load_plain(kind: Any, folder: Path) -> Any:
    """Load a folder with a class of `transformers`, in evaluation mode."""
    return kind.from_pretrained(folder).eval()


@torch.no_grad()
def response_logprobs(
    folder: Path, prompt: list[int], response: list[int], temperature: float
) -> Tensor:
    """Log-probs [T] of a response's tokens; PAD is no token of any response."""
    logits = load_plain(AutoModelForCausalLM, folder)(torch.tensor([[*prompt, *response]])).logits
    scaled = logits[0, len(prompt) - 1 : -1].double() / temperature
    scaled[:, AutoTokenizer.from_pretrained(folder).pad_token_id] = -torch.inf
    logprobs: Tensor = scaled.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
    return logprobs


def mean_loss(folder: Path, rows: list[dict[str, Any]]) -> float:
    """Cross-entropy per response token, EOS included."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = []
    for row in rows:
        prompt, response = (tokenizer(row[key]).input_ids for key in ("prompt", "response"))
        parts.append(response_logprobs(folder, prompt, [*response, tokenizer.eos_token_id], 1.0))
    return -torch.cat(parts).mean().item()


@torch.no_grad()
def raw_score(folder: Path, tokens: list[int]) -> float:
    """A reward model's score before normalization."""
    settings = read_settings(str(folder), flag="", hint="")
    ids = torch.tensor([tokens])
    if settings.is_plain:
        logit: float = load_plain(AutoModelForSequenceClassification, folder)(ids).logits.item()
        return logit
    model = _load_ours(folder)
    mask = torch.ones_like(ids, dtype=torch.bool)
    score: float = ScalarModel.scores(model(ids, mask), mask).item()
    return score * settings.score_std + settings.score_mean


@cache
def _load_ours(folder: Path) -> ScalarModel:
    settings = read_settings(str(folder), flag="", hint="")
    device = torch.device("cpu")
    return load_scalar_model(
        str(folder), settings, device=device, compute_dtype=torch.float32
    ).eval()
