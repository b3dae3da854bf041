"""Shapes, masks and log-probabilities: what every stage needs, in one place each.

B sequences of L tokens, V vocabulary entries, H hidden size, N selected tokens, T response
positions. A mask is bool; True marks a token that counts. Padding may hold anything, NaN included.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# fp32 logits that may exist at a time: 2^24 entries are 64 MB.
LOGIT_CHUNK = 2**24


def right_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] long and their bool mask [B, L], padded on the right to the longest row."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, response_mask_from_lengths(lengths, width)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of the counting entries; a 0-d tensor in the values' dtype."""
    return values.masked_fill(~mask, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the counting entries; 0 when none counts."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_moments(values: Tensor, mask: Tensor) -> Tensor:
    """[count, sum, sum of squares] in float64: what ranks add up before `whiten`."""
    kept = values[mask].double()
    count = torch.tensor(float(kept.numel()), dtype=torch.float64, device=values.device)
    return torch.stack([count, kept.sum(), kept.square().sum()])


def mean_and_variance(moments: Tensor) -> tuple[float, float]:
    """Mean and biased variance (divide by n) of what `masked_moments` counted; (0, 0) if none."""
    count, total, squares = moments.tolist()
    if count == 0:
        return 0.0, 0.0
    mean = total / count
    return mean, max(squares / count - mean * mean, 0.0)


def whiten(
    values: Tensor,  # [B, T]
    mask: Tensor,  # [B, T]
    *,
    mean: float,
    variance: float,
    keep_mean: bool = False,
) -> Tensor:  # [B, T], 0 where the mask is False
    """(x - mean) / sqrt(variance + 1e-8), with the mean added back if `keep_mean`.

    Biased variance, as in Ziegler et al. 2019 (arXiv:1909.08593); rewards keep their mean,
    advantages do not.
    """
    whitened: Tensor = (values - mean) * (variance + 1e-8) ** -0.5
    if keep_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0.0)


def position_ids_from_mask(attention_mask: Tensor) -> Tensor:  # [B, L] bool -> [B, L] long
    """Number of real tokens before each one, so that padding on either side changes nothing."""
    counts = attention_mask.long()
    return counts.cumsum(dim=1) - counts


def predicting_positions(target_mask: Tensor) -> Tensor:  # [B, L] bool -> [B, L] bool
    """Mask of the positions whose logits predict the target tokens: the shift, done only here.

    The hidden state at position i gives the distribution of token i + 1, and a critic's reading
    there is the value before token i + 1. A target at position 0 cannot be predicted.
    """
    if bool(target_mask[:, 0].any()):
        raise ValueError("the first token of a sequence cannot be a target")
    shifted = torch.zeros_like(target_mask)
    shifted[:, :-1] = target_mask[:, 1:]
    return shifted


def response_mask_from_lengths(lengths: Tensor, width: int) -> Tensor:  # [B] -> [B, width] bool
    """True in the first `lengths[b]` columns of row b."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def last_position(attention_mask: Tensor) -> Tensor:  # [B, L] bool -> [B] long
    """Index of the last real token of each row."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    index: Tensor = (positions * attention_mask).argmax(dim=1)
    return index


def log_softmax_at(
    logits: Tensor,  # [N, V]
    tokens: Tensor,  # [N] long
    *,
    temperature: float,
    banned_token: int | None,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:  # log-probs [N], entropies [N] or [0], fp32
    """Log-probability of each token, and the entropy if asked, under softmax(logits / temperature).

    `banned_token` (PAD) has probability 0: no response contains it, whatever its logit is.
    """
    scaled = logits.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    if banned_token is not None:
        banned = torch.tensor([banned_token], device=logits.device)
        scaled = scaled.index_fill(-1, banned, torch.finfo(torch.float32).min)
    all_logprobs = scaled.log_softmax(dim=-1)
    logprobs = all_logprobs.gather(-1, tokens[:, None]).squeeze(-1)
    if not with_entropy:
        return logprobs, logits.new_empty(0)
    with torch.no_grad():
        entropies = -(all_logprobs.exp() * all_logprobs).sum(dim=-1)
    return logprobs, entropies


def token_logprobs(
    hidden: Tensor,  # [N, H]
    head: Callable[[Tensor], Tensor],  # [n, H] -> [n, V]
    tokens: Tensor,  # [N]
    *,
    vocab_size: int,
    chunked: bool = True,
    temperature: float = 1.0,
    banned_token: int | None = None,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor]:  # log-probs [N], entropies [N] or [0], fp32
    """`log_softmax_at` of `head(hidden)`, in chunks of rows that bound the logits in memory.

    With more than one chunk and gradients on, a chunk's logits are made again in backward. Where
    a call of `head` is a collective, ranks of unequal N must not call it unequally often:
    `chunked=False` calls it once.
    """

    def chunk_logprobs(hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return log_softmax_at(
            head(hidden),
            tokens,
            temperature=temperature,
            banned_token=banned_token,
            with_entropy=with_entropy,
        )

    rows = max(LOGIT_CHUNK // vocab_size, 1)
    if hidden.shape[0] <= rows or not chunked:
        return chunk_logprobs(hidden, tokens)
    parts = []
    for start in range(0, hidden.shape[0], rows):
        piece = hidden[start : start + rows], tokens[start : start + rows]
        if torch.is_grad_enabled():
            parts.append(checkpoint(chunk_logprobs, *piece, use_reentrant=False))
        else:
            parts.append(chunk_logprobs(*piece))
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def scatter_to_mask(packed: Tensor, mask: Tensor) -> Tensor:  # [N], [B, T] -> [B, T]
    """Put N packed values, in row order, where the mask is True; 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=packed.dtype, device=packed.device).masked_scatter(
        mask, packed
    )


class _SummedCrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(hidden weight^T)[token], its gradient made in the forward.

    The [N, V] logits exist only `chunk` rows at a time and only once: on a CPU the page traffic
    of full logits costs more than the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, banned: int, dtype: torch.dtype
    ) -> Tensor:
        chunk = 512
        low_weight = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            piece = hidden[start : start + chunk].to(dtype)
            target = tokens[start : start + chunk, None]
            logits = (piece @ low_weight.T).float()
            if banned >= 0:
                logits[:, banned] = torch.finfo(torch.float32).min
            log_z = logits.logsumexp(dim=-1, keepdim=True)
            total += (log_z - logits.gather(1, target)).sum()
            if not any(ctx.needs_input_grad):
                continue
            grad_logits = logits.sub_(log_z).exp_()  # softmax, then minus one at the target
            grad_logits.scatter_add_(1, target, -torch.ones_like(grad_logits[:, :1]))
            grad_logits = grad_logits.to(dtype)
            grad_hidden[start : start + chunk] = grad_logits @ low_weight
            grad_weight += grad_logits.T @ piece
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None, None


def summed_cross_entropy(
    hidden: Tensor,  # [N, H]
    weight: Tensor,  # [V, H], the LM head
    tokens: Tensor,  # [N]
    *,
    banned_token: int | None,
    dtype: torch.dtype,
) -> Tensor:  # 0-d fp32
    """Sum over tokens of the cross-entropy under a bias-free linear head; matmuls in `dtype`."""
    banned = -1 if banned_token is None else banned_token
    arguments = (hidden, weight, tokens, banned, dtype)
    loss: Tensor = _SummedCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss
