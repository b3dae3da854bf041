"""The arithmetic of PPO: pure functions of tensors; no models, ranks or randomness.

Shapes: B sequences, T response positions. Every [B, T] tensor is response-aligned: column t
belongs to response token t, and the value at t is the critic's before token t. `mask` is bool; True
marks a token that counts.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.tensors import find_last_position, masked_mean, masked_sum


def shape_scores(
    scores: Tensor,  # [B]
    has_eos: Tensor,  # [B] bool
    *,
    score_clip: float,
    missing_eos: Literal["replace", "subtract", "none"],
    missing_eos_penalty: float,
) -> Tensor:  # [B]
    """Clip scores to +-score_clip (0: not at all), then penalize responses that never end."""
    shaped = scores.clamp(-score_clip, score_clip) if score_clip > 0 else scores
    if missing_eos == "replace":
        return torch.where(has_eos, shaped, torch.full_like(shaped, -missing_eos_penalty))
    if missing_eos == "subtract":
        return torch.where(has_eos, shaped, shaped - missing_eos_penalty)
    return shaped


def compute_rewards(
    scores: Tensor,  # [B]
    kl: Tensor,  # [B, T], per-token estimate
    mask: Tensor,  # [B, T]
    *,
    kl_coef: float,
) -> Tensor:  # [B, T]
    """-kl_coef * kl at each token, plus the score at the response's last token."""
    rewards = -kl_coef * kl.masked_fill(~mask, 0.0)
    rows = torch.arange(len(scores), device=scores.device)
    at_end = torch.zeros_like(rewards)
    at_end[rows, find_last_position(mask)] = scores.to(rewards.dtype)
    return rewards + at_end.masked_fill(~mask, 0.0)


def compute_gae(
    rewards: Tensor,  # [B, T]
    values: Tensor,  # [B, T]
    mask: Tensor,  # [B, T]
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:  # advantages [B, T], returns [B, T]
    """Generalized Advantage Estimation (arXiv:1506.02438).

    delta_t = r_t + gamma * V_{t+1} - V_t;  A_t = delta_t + gamma * lambda * A_{t+1}.
    A response is a whole episode: the value after its last token is 0.
    """
    rewards = rewards.masked_fill(~mask, 0.0)
    values = values.masked_fill(~mask, 0.0)
    next_value = next_advantage = torch.zeros_like(values[:, 0])  # [B]
    advantages = torch.empty_like(values)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = delta + gamma * gae_lambda * next_advantage
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


@dataclass(frozen=True)
class PolicyLoss:
    """The clipped objective and its statistics; all 0-d tensors."""

    loss: Tensor  # summed over the micro-batch, divided by token_count
    clipped_tokens: Tensor  # number of tokens where the clipped branch is strictly larger
    kl_sum: Tensor  # sum of (new - old)^2 / 2, how far the policy moved
    ratio_min: Tensor
    ratio_max: Tensor


def policy_loss(
    logprobs: Tensor,  # [B, T]
    old_logprobs: Tensor,  # [B, T]
    advantages: Tensor,  # [B, T]
    mask: Tensor,  # [B, T]
    *,
    clip_range: float,
    token_count: int,
) -> PolicyLoss:
    """sum max(-A r, -A clip(r, 1 - eps, 1 + eps)) / token_count, r = exp(new - old).

    PPO's clipped surrogate (arXiv:1707.06347). `token_count` is that of the whole optimizer step
    over all ranks, so that any split into micro-batches or ranks gives the same gradient.
    """
    log_ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
    ratio = log_ratio.exp()
    advantages = advantages.masked_fill(~mask, 0.0)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    loss = masked_sum(torch.maximum(unclipped, clipped), mask) / token_count
    # A rank with fewer micro-batches than others has no tokens and no extremes.
    extremes = ratio.detach().aminmax() if ratio.numel() else None
    return PolicyLoss(
        loss=loss,
        clipped_tokens=((clipped > unclipped) & mask).sum(),
        kl_sum=masked_sum(log_ratio.detach().square() / 2.0, mask),
        ratio_min=extremes.min if extremes else ratio.new_tensor(torch.inf),
        ratio_max=extremes.max if extremes else ratio.new_tensor(-torch.inf),
    )


@dataclass(frozen=True)
class ValueLoss:
    """The value objective; 0-d tensors."""

    loss: Tensor
    clipped_tokens: Tensor


def value_loss(
    values: Tensor,  # [B, T]
    old_values: Tensor,  # [B, T]
    returns: Tensor,  # [B, T]
    mask: Tensor,  # [B, T]
    *,
    value_clip_range: float,
    token_count: int,
) -> ValueLoss:
    """sum max((V - R)^2, (clip(V, V_old +- eps) - R)^2) / 2 / token_count; eps = 0: unclipped."""
    values = values.masked_fill(~mask, 0.0)
    old_values = old_values.masked_fill(~mask, 0.0)
    returns = returns.masked_fill(~mask, 0.0)
    squares = (values - returns).square()
    clipped_tokens = torch.zeros((), dtype=torch.long, device=values.device)
    if value_clip_range > 0:
        low, high = old_values - value_clip_range, old_values + value_clip_range
        clipped_squares = (torch.clamp(values, low, high) - returns).square()
        clipped_tokens = ((clipped_squares > squares) & mask).sum()
        squares = torch.maximum(squares, clipped_squares)
    return ValueLoss(masked_sum(squares, mask) / 2.0 / token_count, clipped_tokens)


def explained_variance(
    values: Tensor,  # [B, T]
    returns: Tensor,  # [B, T]
    mask: Tensor,  # [B, T]
) -> Tensor:  # 0-d
    """1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant one."""
    errors = returns - values
    error_variance = masked_mean((errors - masked_mean(errors, mask)).square(), mask)
    variance = masked_mean((returns - masked_mean(returns, mask)).square(), mask)
    return 1.0 - error_variance / variance.clamp(min=1e-12)
