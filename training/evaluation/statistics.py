"""Paired comparisons and 95 % intervals. Pure functions of numbers."""

from collections.abc import Sequence
from math import log
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from training.intervals import LEVEL, wilson_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# With more groups linearisation gives the same interval in a fraction of the time.
MAX_RESAMPLED_GROUPS = 500


def compute_wins(
    before: Sequence[float],  # [N]
    after: Sequence[float],  # [N]
) -> Floats:  # [N]
    """Return 1 where `after` scores higher, 0 where it scores lower, 1/2 for a tie."""
    if len(before) != len(after):
        raise ValueError(f"a paired comparison needs equal counts, got {len(before)}, {len(after)}")
    if not len(before):
        raise ValueError("a paired comparison needs at least one pair")
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if not np.isfinite(difference).all():
        raise ValueError("a paired comparison needs finite scores")
    return (np.sign(difference) + 1.0) / 2.0


def bootstrap_interval(
    values: Sequence[float] | Floats,  # [N]
    groups: Sequence[str] | Ints,  # [N]
    *,
    samples: int = 2000,
    seed: int,
) -> tuple[float, float]:
    """Percentile interval of the mean, resampling whole groups with replacement.

    Values of one group (responses about one film) are not independent, so the group is the unit.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) != len(groups) or not len(values):
        raise ValueError(f"each value needs its group, got {len(values)} and {len(groups)}")
    _, member_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums = np.bincount(member_of, weights=values)  # [G]
    sizes = np.bincount(member_of).astype(np.float64)  # [G]
    generator = np.random.default_rng(seed)
    count = len(sums)
    # How often each group is drawn in each resample: [samples, G].
    draws = generator.multinomial(count, np.full(count, 1.0 / count), size=samples)
    means = (draws @ sums) / (draws @ sizes)
    low, high = np.quantile(means, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return float(low), float(high)


def linearized_interval(
    values: Floats,  # [N]
    groups: Ints,  # [N]
) -> tuple[float, float]:
    """Normal interval of the mean of grouped values, by linearisation.

    The mean is a ratio of sums over groups; its variance is that of the residuals' group sums,
    G / (G - 1) sum_g (sum_g - mean n_g)^2 / N^2 (Cochran, Sampling Techniques, 1977, 6.3).
    """
    _, member_of = np.unique(groups, return_inverse=True)
    residuals = np.bincount(member_of, weights=values - values.mean())  # [G]
    count = len(residuals)
    if count < 2:
        raise ValueError("one group alone does not say how much groups differ")
    half = NormalDist().inv_cdf((1.0 + LEVEL) / 2.0) * float(
        np.sqrt(count / (count - 1) * np.square(residuals).sum()) / len(values)
    )
    return float(values.mean()) - half, float(values.mean()) + half


def compute_mean_interval(
    values: Floats,  # [N]
    groups: Ints,  # [N]
    *,
    seed: int,
) -> tuple[float, float]:
    """Interval of the mean of grouped values, for any number of groups."""
    if len(np.unique(groups)) > MAX_RESAMPLED_GROUPS:
        return linearized_interval(values, groups)
    return bootstrap_interval(values, groups, seed=seed)


def compute_proportion_interval(
    outcomes: Floats,  # [N], each in [0, 1]
    groups: Ints,  # [N]
    *,
    seed: int,
) -> tuple[float, float]:
    """Interval of a proportion of grouped outcomes.

    Wilson's if each outcome is its own group. If all outcomes are equal, resampling finds no
    spread: then Wilson's with the groups as trials. One group counts as one trial.
    """
    count, mean = len(np.unique(groups)), float(outcomes.mean())
    if count == len(outcomes):
        return wilson_interval(float(outcomes.sum()), len(outcomes))
    if count == 1 or mean in (0.0, 1.0):
        return wilson_interval(mean * count, count)
    low, high = compute_mean_interval(outcomes, groups, seed=seed)
    return max(low, 0.0), min(high, 1.0)


def best_of_n_kl(n: int) -> float:
    """Upper bound of the KL of best-of-n sampling, in nats: log n - (n - 1) / n.

    Exact when no two responses score the same (arXiv:2401.01879).
    """
    return log(n) - (n - 1) / n
