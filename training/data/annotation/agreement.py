"""Agreement of annotators: pure statistics of votes, each with the source of its formula."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

# A unit is one comparison that several people judged: {annotator: share}, as in `votes.Vote`.
Unit = Mapping[str, float]


def percent_agreement(units: Iterable[Unit]) -> float | None:
    """Return the share of equal judgements over all pairs of annotators; None without a pair."""
    equal = total = 0
    for unit in units:
        for left, right in combinations(unit.values(), 2):
            equal += left == right
            total += 1
    return equal / total if total else None


def cohen_kappa(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return two annotators' agreement beyond chance on the same items (Cohen, 1960).

    None without items, or if both gave only one answer, the same one.
    """
    count = len(first)
    if not count:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    left, right = Counter(first), Counter(second)
    expected = sum(left[value] * right[value] for value in left) / count**2
    return None if expected == 1.0 else (observed - expected) / (1.0 - expected)


def krippendorff_alpha(units: Iterable[Unit]) -> float | None:
    """Return nominal alpha for any number of annotators with gaps (Krippendorff, 2011, section C).

    1 - observed / expected disagreement over values that can be paired; None without such values
    or with only one value.
    """
    coincidences: dict[tuple[float, float], float] = defaultdict(float)
    for unit in units:
        values = list(unit.values())
        for index, value in enumerate(values):
            for other in values[:index] + values[index + 1 :]:
                coincidences[value, other] += 1.0 / (len(values) - 1)
    totals: dict[float, float] = defaultdict(float)
    for (value, _), weight in coincidences.items():
        totals[value] += weight
    count = sum(totals.values())
    expected = sum(totals[a] * totals[b] for a in totals for b in totals if a != b)
    if not expected:
        return None
    observed = sum(weight for (a, b), weight in coincidences.items() if a != b)
    return 1.0 - (count - 1.0) * observed / expected


def compute_agreement_with_others(units: Iterable[Unit]) -> dict[str, float]:
    """Return each annotator's share of judgements that equal another's on the same unit."""
    equal: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for unit in units:
        for (one, left), (other, right) in combinations(unit.items(), 2):
            for annotator in (one, other):
                equal[annotator] += left == right
                total[annotator] += 1
    return {annotator: equal[annotator] / total[annotator] for annotator in sorted(total)}


def estimate_annotator_error(agreement: float | None) -> float | None:
    """Estimate the chance e that an annotator errs, from how often two agree on a decided pair.

    Both right or both wrong: agreement = (1 - e)^2 + e^2, solved for e below a half. None if
    nobody can be compared; a half if agreement is not above chance.
    """
    if agreement is None:
        return None
    return 0.5 if agreement <= 0.5 else (1.0 - math.sqrt(2.0 * agreement - 1.0)) / 2.0
