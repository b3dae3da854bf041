"""How far a reward model's held-out comparisons can be trusted. Pure functions of numbers."""

from collections.abc import Sequence
from typing import Any

from training.evaluation.statistics import bootstrap_interval, wilson_interval


def accuracy_report(
    correct: Sequence[bool],  # [P]
    gaps: Sequence[float],  # [P], by how much people rated chosen higher; 0 where not known
    sources: Sequence[str],  # [P], the row a comparison came from
    *,
    seed: int,
) -> dict[str, Any]:
    """Accuracy over all comparisons and over those with a gap of at least 1, with 95 % intervals.

    Comparisons of one row share responses and are not independent: rows are resampled. Where
    each row has one comparison the interval is Wilson's.
    """
    report = {"all": _accuracy(correct, sources, seed)}
    wide = [index for index, gap in enumerate(gaps) if gap >= 1.0]
    if wide:
        report["gap1"] = _accuracy([correct[i] for i in wide], [sources[i] for i in wide], seed)
    return report


def _accuracy(correct: Sequence[bool], sources: Sequence[str], seed: int) -> dict[str, Any]:
    pairs = len(correct)
    if not pairs:
        return {"pairs": 0, "accuracy": None, "interval": None}
    if len(set(sources)) == pairs:
        interval = wilson_interval(sum(correct), pairs)
    else:
        interval = bootstrap_interval([float(c) for c in correct], sources, seed=seed)
    return {"pairs": pairs, "accuracy": sum(correct) / pairs, "interval": list(interval)}
