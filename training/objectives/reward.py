"""The arithmetic of the reward model: pure functions of tensors; no models or ranks.

Shapes: K scored responses, P comparisons between them.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def pairwise_losses(
    chosen_scores: Tensor,  # [P]
    rejected_scores: Tensor,  # [P]
    labels: Tensor,  # [P], probability that chosen is the better one
    margins: Tensor,  # [P]
    *,
    label_smoothing: float,
) -> Tensor:  # [P]
    """-p log sigmoid(d - margin) - (1 - p) log sigmoid(-(d - margin)), d = chosen - rejected.

    Bradley-Terry with soft labels; p = 1 is the pairwise loss of InstructGPT (arXiv:2203.02155)
    and the margin is that of Llama 2 (arXiv:2307.09288). Smoothing s pulls p to (1 - s) p + s / 2.
    """
    p = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
    difference = chosen_scores - rejected_scores - margins
    return p * softplus(-difference) + (1.0 - p) * softplus(difference)


def comparison_loss(
    scores: Tensor,  # [K]
    chosen: Tensor,  # [P] long, indices into scores
    rejected: Tensor,  # [P] long
    labels: Tensor,  # [P]
    weights: Tensor,  # [P]
    margins: Tensor,  # [P]
    *,
    label_smoothing: float,
    center_coef: float,
    weight_sum: float,
) -> Tensor:  # 0-d
    """Weighted pairwise losses divided by `weight_sum`, the pair weights of the optimizer step.

    A response that takes part in many pairs is scored once. `center_coef` adds the squared mean
    score of each pair (Eisenstein et al., arXiv:2312.09244), since the loss fixes only differences.
    """
    losses = pairwise_losses(
        scores[chosen], scores[rejected], labels, margins, label_smoothing=label_smoothing
    )
    if center_coef:
        losses = losses + center_coef * (scores[chosen] + scores[rejected]).square() / 4.0
    return (weights * losses).sum() / weight_sum


def pair_accuracy(
    chosen_scores: Tensor,  # [P]
    rejected_scores: Tensor,  # [P]
    labels: Tensor,  # [P]
) -> tuple[int, int]:  # correct, counted
    """How many comparisons the scores order as the labels do; labels of 1/2 say nothing.

    A tie in the scores is wrong.
    """
    decided = labels != 0.5
    difference = (chosen_scores - rejected_scores)[decided]
    agrees = torch.where(labels[decided] > 0.5, difference > 0, difference < 0)
    return int(agrees.sum()), int(decided.sum())


def compute_normalization(scores: Tensor) -> tuple[float, float]:  # [K] -> mean, standard deviation
    """Mean and biased standard deviation that make these scores mean 0, variance 1."""
    mean = scores.double().mean().item()
    std = scores.double().std(correction=0).item()
    return mean, std
