"""How far a reward model's held-out comparisons can be trusted. Pure functions of verdicts."""

from collections.abc import Sequence
from typing import Any

from training.data.groups import Verdict
from training.evaluation.statistics import bootstrap_interval
from training.intervals import wilson_interval


def accuracy_report(found: Sequence[Verdict], *, seed: int) -> dict[str, Any]:
    """Accuracy over all comparisons and over those with a gap of at least 1, with 95 % intervals.

    Comparisons of one row share responses and are not independent: rows are resampled. Where
    each row has one comparison the interval is Wilson's.
    """
    report = {"all": _accuracy(found, seed)}
    wide = [verdict for verdict in found if verdict.gap >= 1.0]
    if wide:
        report["gap1"] = _accuracy(wide, seed)
    return report


def _accuracy(found: Sequence[Verdict], seed: int) -> dict[str, Any]:
    pairs = len(found)
    if not pairs:
        return {"pairs": 0, "accuracy": None, "interval": None}
    right = sum(verdict.is_right for verdict in found)
    sources = [verdict.source for verdict in found]
    if len(set(sources)) == pairs:
        interval = wilson_interval(right, pairs)
    else:
        outcomes = [float(verdict.is_right) for verdict in found]
        interval = bootstrap_interval(outcomes, sources, seed=seed)
    return {"pairs": pairs, "accuracy": right / pairs, "interval": list(interval)}
