"""Calibration of a reward model. Pure functions of score differences.

A reward model's chance that one response is better is sigmoid(score difference), Bradley and
Terry's model. Shapes: P comparisons; `label` is the share of raters who find the better side
better, so soft labels and ties count as they are. Each comparison is read from the side that the
model prefers: its confidence is at least 1/2, and the outcome is the share who agree.
"""

from typing import Any

import numpy as np

from training.evaluation.statistics import Floats

BINS = 10

Bin = dict[str, Any]


def compute_probability(difference: Floats) -> Floats:
    """sigmoid, without an overflow for any score difference."""
    return 0.5 * (1.0 + np.tanh(0.5 * difference))


def choose_preferred_side(difference: Floats, label: Floats) -> tuple[Floats, Floats]:
    """(confidence, outcome) [P] of the side that the model prefers; 1/2 where it prefers none."""
    outcome = np.where(difference > 0, label, 1.0 - label)
    return compute_probability(np.abs(difference)), np.where(difference == 0, 0.5, outcome)


def bin_by_confidence(difference: Floats, label: Floats, *, bins: int = BINS) -> list[Bin]:
    """Return equally wide bins of confidence from 1/2 to 1, without the empty ones: a reliability
    diagram (DeGroot and Fienberg, 1983).

    Each has the ends of its confidence, `low` and `high`, the number of its `pairs`, their mean
    `confidence`, and the mean share of people who agree with the model, `agreement`.
    """
    confidence, outcome = choose_preferred_side(difference, label)
    index = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    found = []
    for number in range(bins):
        inside = index == number
        if inside.any():
            found.append(
                {
                    "low": 0.5 + number / (2 * bins),
                    "high": 0.5 + (number + 1) / (2 * bins),
                    "pairs": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "agreement": float(outcome[inside].mean()),
                }
            )
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean distance of confidence and agreement over the bins, weighted by their comparisons
    (Guo et al., arXiv:1706.04599, equation 5). Above 0 by chance alone where there are few."""
    distances = (part["pairs"] * abs(part["confidence"] - part["agreement"]) for part in bins)
    return float(sum(distances) / sum(part["pairs"] for part in bins))


def overconfidence(difference: Floats, label: Floats) -> Floats:
    """Confidence minus outcome [P]: its mean is above 0 where the model is surer than right."""
    confidence, outcome = choose_preferred_side(difference, label)
    return confidence - outcome


def brier_score(difference: Floats, label: Floats) -> float:
    """Mean squared distance of the model's chance from the label (Brier, 1950); 0 is best.

    Never deciding, a chance of 1/2, gets a quarter on hard labels.
    """
    return float(np.square(compute_probability(difference) - label).mean())
