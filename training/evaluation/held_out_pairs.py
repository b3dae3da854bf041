"""A reward model's scores of held-out comparisons, as the summary's `reward_model` entry."""

import math
from collections.abc import Sequence
from typing import Any

from training.data.encode import EncodedGroup
from training.evaluation.reward_model import accuracy_report


def accuracy_entry(
    groups: Sequence[EncodedGroup],
    scores: Sequence[float],  # one a response, in the order of the groups
    *,
    seed: int,
) -> dict[str, Any]:
    """Accuracy, interval and number of pairs: of all pairs, and of those with a gap of 1 or more.

    A soft label is the share of raters who agree with the order, so where labels are soft their
    mean is what one person a side would reach: `human_ceiling`. Ties have no right order.
    """
    correct, gaps, sources, agreement = [], [], [], []
    first = 0
    for group in groups:
        for pair in group.pairs:
            if pair.label == 0.5:
                continue
            difference = scores[first + pair.chosen] - scores[first + pair.rejected]
            correct.append(difference > 0 if pair.label > 0.5 else difference < 0)
            gaps.append(pair.gap or 0.0)
            sources.append(group.source)
            agreement.append(max(pair.label, 1.0 - pair.label))
        first += len(group.response_ids)
    report = accuracy_report(correct, gaps, sources, seed=seed)
    entry: dict[str, Any] = {}
    for name, suffix, least in (("all", "", -math.inf), ("gap1", "_gap1", 1.0)):
        found = report.get(name)
        if found is None or not found["pairs"]:
            continue
        entry[f"accuracy{suffix}"] = found["accuracy"]
        entry[f"accuracy{suffix}_ci"] = found["interval"]
        entry[f"pairs{suffix}"] = found["pairs"]
        shares = [share for share, gap in zip(agreement, gaps, strict=True) if gap >= least]
        if any(share < 1.0 for share in shares):
            entry[f"human_ceiling{suffix}"] = sum(shares) / len(shares)
    return entry
