"""Drawing tokens: keyed uniforms, and one pass from logits to tokens and log-probs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a rollout is drawn. `greedy` takes the likeliest token and ignores the rest."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False


@dataclass(frozen=True)
class SampleKey:
    """Names one response of a run: all that its random draws depend on."""

    seed: int
    step: int
    prompt_id: int
    sample_index: int


def keyed_uniforms(keys: Sequence[SampleKey], count: int) -> Tensor:  # [len(keys), count] fp32
    """`count` uniforms in [0, 1) for each response, the same whatever else is drawn beside it.

    Philox (Salmon et al., SC 2011) is a function of a key and a counter: the key is (seed, step),
    the counter starts at (0, 0, sample, prompt), and draws advance only its low words.
    """
    rows = np.empty((len(keys), count), dtype=np.float32)
    for row, key in zip(rows, keys, strict=True):
        generator = np.random.Philox(
            key=np.array([key.seed, key.step], dtype=np.uint64),
            counter=np.array([0, 0, key.sample_index, key.prompt_id], dtype=np.uint64),
        )
        row[:] = np.random.Generator(generator).random(count, dtype=np.float32)
    return torch.from_numpy(rows)


def sample_tokens(
    logits: Tensor,  # [B, V]
    uniforms: Tensor,  # [B]
    sampling: Sampling,
    *,
    banned_token: int,
) -> tuple[Tensor, Tensor]:  # tokens [B] long, log-probs [B] fp32
    """One token for each row, by inverting the cumulative distribution at its uniform.

    The log-prob is that of softmax(logits / temperature) without `banned_token`: top-k and top-p
    narrow what is drawn, not what its probability is said to be, since training recomputes it
    from the whole distribution.
    """
    scaled = logits.float()
    if not sampling.greedy and sampling.temperature != 1.0:
        scaled = scaled / sampling.temperature
    banned = torch.tensor([banned_token], device=logits.device)
    scaled = scaled.index_fill(-1, banned, torch.finfo(torch.float32).min)
    logprobs = scaled.log_softmax(dim=-1)
    if sampling.greedy:
        tokens = logprobs.argmax(dim=-1)
    else:
        probabilities = narrow(logprobs.exp(), top_k=sampling.top_k, top_p=sampling.top_p)
        cumulative = probabilities.cumsum(dim=-1)
        total = cumulative[:, -1:]
        # Strictly below the total, so that rounding cannot pick a token of probability 0.
        drawn = torch.minimum(uniforms[:, None] * total, total * (1.0 - 2.0**-23))
        tokens = torch.searchsorted(cumulative, drawn, right=True).squeeze(-1)
        tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1)


def narrow(probabilities: Tensor, *, top_k: int, top_p: float) -> Tensor:  # [B, V] -> [B, V]
    """Zero all but the `top_k` likeliest tokens, and those outside the smallest set of the
    likeliest that holds `top_p` (arXiv:1904.09751); not renormalised. 0 and 1.0 keep everything.
    """
    size = probabilities.shape[-1]
    if not (0 < top_k < size or top_p < 1.0):
        return probabilities
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if 0 < top_k < size:
        keep[:, top_k:] = False
    if top_p < 1.0:
        before = ranked.cumsum(dim=-1) - ranked
        keep &= before < top_p * ranked.masked_fill(~keep, 0.0).sum(dim=-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(-1, order, ranked * keep)
