"""Intervals of counted proportions. Pure; below every other package, since all may need them."""

from math import sqrt
from statistics import NormalDist

LEVEL = 0.95  # confidence


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion of n independent trials (Wilson 1927)."""
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in 0..n with n above 0, got {successes} of {n}")
    z = NormalDist().inv_cdf((1.0 + LEVEL) / 2.0)
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # The formula reaches 0 and 1 exactly; rounding does not.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high
