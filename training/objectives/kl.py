"""Kullback-Leibler penalties: per-token estimates and the adaptive coefficient."""

from typing import Literal

from torch import Tensor


def estimate_kl(
    logprobs: Tensor,  # [B, T], of tokens sampled from the policy
    ref_logprobs: Tensor,  # [B, T]
    mask: Tensor,  # [B, T]
    *,
    estimator: Literal["k1", "k2", "k3"],
) -> Tensor:  # [B, T], 0 where the mask is False
    """Per-token estimate of KL(policy || ref), with l = ref_logprobs - logprobs.

    k1 = -l (unbiased), k2 = l^2 / 2 (biased, low variance), k3 = exp(l) - 1 - l (unbiased, >= 0);
    Schulman, "Approximating KL divergence", 2020. k1 has the right gradient as a reward.
    """
    log_ratio = (ref_logprobs - logprobs).masked_fill(~mask, 0.0)
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2.0
    return log_ratio.exp() - 1.0 - log_ratio


def adapt_kl_coef(
    kl_coef: float, *, kl: float, kl_target: float, episodes: int, kl_horizon: float
) -> float:
    """kl_coef * (1 + clip(kl / kl_target - 1, -0.2, 0.2) * episodes / kl_horizon).

    The proportional controller of Ziegler et al. 2019 (arXiv:1909.08593, section 2.2); `kl` is the
    mean over responses of the summed per-token KL, in nats, applied after each step.
    """
    error = min(max(kl / kl_target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * episodes / kl_horizon)
