"""Paired comparisons and their uncertainty. Pure functions of numbers."""

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def paired_wins(
    before: Sequence[float],  # [N]
    after: Sequence[float],  # [N]
) -> Floats:  # [N]
    """1 where the second side scores higher, 0 where lower, 1/2 where they tie."""
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
    groups: Sequence[str],  # [N]
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int,
) -> tuple[float, float]:
    """Percentile interval of the mean, drawing whole groups with replacement.

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
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def best_of_n_kl(n: int) -> float:
    """An upper bound of the KL that best-of-n spends, in nats: log n - (n - 1) / n.

    Exact when no two responses score the same (arXiv:2401.01879).
    """
    return log(n) - (n - 1) / n
