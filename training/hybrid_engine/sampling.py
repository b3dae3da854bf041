"""Sample tokens: keyed uniforms, and one pass from logits to tokens and log-probs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 128  # tokens summed together before the running sum
IMPOSSIBLE = -1e4  # a log-probability whose exponential is 0 and whose product with 0 is 0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling settings of a rollout. `greedy` takes the likeliest token and ignores the rest."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False


@dataclass(frozen=True)
class SampleKey:
    """Identifies one response of a run; its random draws depend on nothing else."""

    seed: int
    step: int
    prompt_id: int
    sample_index: int


def draw_uniforms(keys: Sequence[SampleKey], count: int) -> Tensor:  # [len(keys), count] fp32
    """Draw `count` uniforms in [0, 1) for each response, independent of the others in the batch.

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
    logits: Tensor,  # [B, V] fp32; overwritten
    uniforms: Tensor,  # [B]
    sampling: Sampling,
    *,
    banned_token: int,
) -> tuple[Tensor, Tensor, Tensor]:  # tokens [B] long, log-probs [B], entropies [B]
    """Sample one token for each row, by inverting the cumulative distribution at its uniform.

    Log-prob and entropy are those of softmax(logits / temperature) without `banned_token`. Top-k
    and top-p do not change them, since training recomputes them from the whole distribution.
    """
    if not sampling.greedy and sampling.temperature != 1.0:
        logits.mul_(1.0 / sampling.temperature)
    logits[:, banned_token] = torch.finfo(torch.float32).min
    shifted = logits.sub_(logits.amax(dim=-1, keepdim=True))
    shifted[:, banned_token] = IMPOSSIBLE
    weights = shifted.exp()
    blocks = _block_sums(weights)
    total = blocks.sum(dim=-1)
    log_total = total.log()
    if sampling.greedy:
        tokens = shifted.argmax(dim=-1)
    elif 0 < sampling.top_k < logits.shape[-1] or sampling.top_p < 1.0:
        kept = narrow(weights / total[:, None], top_k=sampling.top_k, top_p=sampling.top_p)
        tokens = _invert(kept, _block_sums(kept), uniforms)
    else:
        tokens = _invert(weights, blocks, uniforms)
    logprobs = shifted.gather(-1, tokens[:, None]).squeeze(-1) - log_total
    mean_shifted = torch.bmm(weights[:, None], shifted[:, :, None]).flatten() / total
    return tokens, logprobs, log_total - mean_shifted


def _block_sums(weights: Tensor) -> Tensor:  # [B, V] -> [B, ceil(V / BLOCK)]
    whole = weights.shape[-1] // BLOCK
    sums: Tensor = weights[:, : whole * BLOCK].reshape(len(weights), whole, BLOCK).sum(dim=-1)
    if whole * BLOCK == weights.shape[-1]:
        return sums
    return torch.cat([sums, weights[:, whole * BLOCK :].sum(dim=-1, keepdim=True)], dim=-1)


def _invert(weights: Tensor, blocks: Tensor, uniforms: Tensor) -> Tensor:  # [B] long
    """Find the token at which each row's cumulative weight reaches its uniform times the total.

    First finds the block of tokens, then the token in it: a running sum over the whole vocabulary
    would be slow and less exact.
    """
    ends = blocks.cumsum(dim=-1)
    share = _clamp_below(uniforms[:, None] * ends[:, -1:], ends[:, -1:])
    # Past the end only where weights are NaN: then any token will do, as its log-prob is NaN.
    block = torch.searchsorted(ends, share, right=True).clamp(max=ends.shape[-1] - 1)
    share = share - (ends.gather(-1, block) - blocks.gather(-1, block))
    ids = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(-1, ids.clamp(max=weights.shape[-1] - 1))
    inside = inside.masked_fill(ids >= weights.shape[-1], 0.0).cumsum(dim=-1)
    share = _clamp_below(share.clamp(min=0.0), inside[:, -1:])
    tokens = block * BLOCK + torch.searchsorted(inside, share, right=True)
    return tokens.squeeze(-1).clamp(max=weights.shape[-1] - 1)


def _clamp_below(share: Tensor, total: Tensor) -> Tensor:
    """Keep shares below the total, so that rounding cannot pick a token of probability 0."""
    return torch.minimum(share, total * (1.0 - 2.0**-23))


def narrow(probabilities: Tensor, *, top_k: int, top_p: float) -> Tensor:  # [B, V] -> [B, V]
    """Zero all tokens but the `top_k` likeliest and the smallest set with probability `top_p`.

    See arXiv:1904.09751. The result is not renormalized; 0 and 1.0 keep everything.
    """
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if top_k > 0:
        keep[:, top_k:] = False
    if top_p < 1.0:
        before = ranked.cumsum(dim=-1) - ranked
        keep &= before < top_p * ranked.masked_fill(~keep, 0.0).sum(dim=-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(-1, order, ranked * keep)
