"""A reward model's scores of held-out comparisons, as the summary's `reward_model` entry."""

import math
from collections.abc import Sequence
from typing import Any

from training.data.encode import EncodedGroup
from training.data.groups import verdicts
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
    found, first = [], 0
    for group in groups:
        last = first + len(group.response_ids)
        found += verdicts(group, scores[first:last])
        first = last
    report = accuracy_report(found, seed=seed)
    entry: dict[str, Any] = {}
    for name, suffix, least in (("all", "", -math.inf), ("gap1", "_gap1", 1.0)):
        part = report.get(name)
        if part is None or not part["pairs"]:
            continue
        entry[f"accuracy{suffix}"] = part["accuracy"]
        entry[f"accuracy{suffix}_ci"] = part["interval"]
        entry[f"pairs{suffix}"] = part["pairs"]
        shares = [verdict.agreement for verdict in found if verdict.gap >= least]
        if any(share < 1.0 for share in shares):
            entry[f"human_ceiling{suffix}"] = sum(shares) / len(shares)
    return entry
