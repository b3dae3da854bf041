"""Log-probabilities and losses from hidden states; the LM head is applied to a few rows at a time.

Full logits are the largest tensor of a step (50,257 per response token of GPT-2), and on a CPU
writing and reading them costs more than the arithmetic: no function here holds them all.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Most fp32 logits at a time: 2^24 entries are 64 MB.
LOGIT_CHUNK = 2**24
# Most logits at a time in `head_loss`, in the dtype of its products. Larger blocks save additions
# of the head's gradient, a matrix as large as the vocabulary.
LOSS_BLOCK = 2**26
# Entries of a block that go through the softmax together, in fp32: they should stay in the caches.
SOFTMAX_CHUNK = 2**20

# Maps log-probs [n] of some of the N tokens, and the slice of those tokens, to their summed loss.
TokenLoss = Callable[[Tensor, slice], Tensor]


def log_softmax_at(
    logits: Tensor,  # [N, V]
    tokens: Tensor,  # [N] long
    *,
    temperature: float,
    banned_token: int | None,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:  # log-probs [N], entropies [N] or [0], fp32
    """Compute each token's log-prob, and the entropy if asked, under softmax(logits / temperature).

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
    """Apply `log_softmax_at` to `head(hidden)`, in chunks of rows that bound the logits in memory.

    With more than one chunk and gradients enabled, backward recomputes a chunk's logits. Where
    a call of `head` is a collective, ranks of unequal N must call it equally often: `chunked=False`
    calls it once.
    """

    def compute_chunk(hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return log_softmax_at(
            head(hidden),
            tokens,
            temperature=temperature,
            banned_token=banned_token,
            with_entropy=with_entropy,
        )

    rows = max(LOGIT_CHUNK // vocab_size, 1)
    if hidden.shape[0] <= rows or not chunked:
        return compute_chunk(hidden, tokens)
    run = compute_chunk
    if torch.is_grad_enabled():
        run = partial(checkpoint, compute_chunk, use_reentrant=False)
    chunks = map(run, torch.split(hidden, rows), torch.split(tokens, rows))
    logprobs, entropies = zip(*chunks, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def head_loss(
    hidden: Tensor,  # [N, H]
    weight: Tensor,  # [V, H], the LM head
    tokens: Tensor,  # [N]
    token_loss: TokenLoss,
    *,
    temperature: float = 1.0,
    banned_token: int | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # 0-d fp32, log-probs [N] fp32 without gradient
    """Compute a loss of the tokens' log-probs under a bias-free head; matrix products in `dtype`.

    The loss must be a sum over tokens: its gradient is computed in the forward, chunk by chunk.
    Each logit exists once, and backward only scales the gradient.
    """
    banned = -1 if banned_token is None else banned_token
    if not torch.is_grad_enabled():  # a Parameter requires its gradient even then
        hidden, weight = hidden.detach(), weight.detach()
    arguments = (hidden, weight, tokens, token_loss, 1.0 / temperature, banned, dtype)
    loss, logprobs = _HeadLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss, logprobs


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        token_loss: TokenLoss,
        scale: float,
        banned: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        wants_gradient = any(ctx.needs_input_grad)
        wants_weight = ctx.needs_input_grad[1]  # False for a frozen head
        low_weight = weight.to(dtype)
        logprobs = torch.empty(len(tokens), dtype=torch.float32, device=hidden.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        if wants_gradient:
            grad_hidden = torch.empty_like(hidden)
            grad_weight: Tensor | None = None
        for block in _split_range(0, len(tokens), LOSS_BLOCK // weight.shape[0]):
            low_hidden = hidden[block].to(dtype)
            logits = low_hidden @ low_weight.T
            for where in _split_range(block.start, block.stop, SOFTMAX_CHUNK // weight.shape[0]):
                inside = slice(where.start - block.start, where.stop - block.start)
                scaled = logits[inside].float() * scale
                if banned >= 0:
                    scaled[:, banned] = torch.finfo(torch.float32).min
                loss, logprobs[where] = _softmax_loss(
                    scaled, tokens[where], token_loss, where, wants_gradient
                )
                total += loss
                if wants_gradient:
                    logits[inside] = scaled.mul_(scale)  # the gradient replaces the logits
            if wants_gradient:
                grad_hidden[block] = logits @ low_weight
            if wants_weight:
                product = (logits.T @ low_hidden).to(weight.dtype)
                grad_weight = product if grad_weight is None else grad_weight.add_(product)
        ctx.mark_non_differentiable(logprobs)
        if wants_gradient:
            if wants_weight and grad_weight is None:
                grad_weight = torch.zeros_like(weight)
            ctx.gradients = grad_hidden, grad_weight
        return total, logprobs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.gradients
        del ctx.gradients
        none = (None,) * 5
        scaled = None if grad_weight is None else grad_weight.mul_(grads[0])
        return grad_hidden.mul_(grads[0]), scaled, *none


def _softmax_loss(
    scaled: Tensor,  # [n, V] fp32
    tokens: Tensor,  # [n]
    token_loss: TokenLoss,
    where: slice,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:  # 0-d, log-probs [n]
    """Compute the loss of a few tokens; with `wants_gradient`, `scaled` becomes its gradient."""
    target = tokens[:, None]
    log_z = scaled.logsumexp(dim=-1, keepdim=True)
    logprobs = (scaled.gather(1, target) - log_z).squeeze(1)
    if not wants_gradient:
        return token_loss(logprobs, where), logprobs
    with torch.enable_grad():
        leaf = logprobs.requires_grad_()
        loss = token_loss(leaf, where)
    (grad,) = torch.autograd.grad(loss, leaf)
    scaled.sub_(log_z).exp_().mul_(-grad[:, None])  # d logprob / d logit = onehot - softmax
    scaled.scatter_add_(1, target, grad[:, None])
    return loss.detach(), logprobs.detach()


def _split_range(start: int, stop: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most `size`, at least 1, from `start` to `stop`."""
    size = max(size, 1)
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))
