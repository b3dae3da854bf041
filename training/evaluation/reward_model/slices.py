"""Accuracy by what a comparison is like: how sure the model, the raters, how long, who. Pure."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from training.data.annotation.agreement import compute_agreement_with_others
from training.evaluation.reward_model.held_out_pairs import TIE, HeldOutPairs
from training.evaluation.statistics import Floats, Ints, compute_proportion_interval

QUARTERS = 4
RATERS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # edges of the share of raters who agree

Slice = dict[str, Any]
Vote = tuple[float, int]  # 1 where the model agrees, else 0; the prompt


def measure_accuracy(right: Floats, clusters: Ints, *, seed: int) -> Slice:
    """pairs, accuracy and its 95 % interval."""
    if not len(right):
        return {"pairs": 0, "accuracy": None, "interval": None}
    interval = compute_proportion_interval(right, clusters, seed=seed)
    return {"pairs": len(right), "accuracy": float(right.mean()), "interval": list(interval)}


def measure_accuracy_by(
    right: Floats,  # [P] 0 or 1
    values: Floats,  # [P], NaN where unknown
    edges: Sequence[float],  # ascending; the last bin holds its upper edge
    clusters: Ints,  # [P]
    *,
    seed: int,
) -> list[Slice]:
    """An accuracy for each bin of `values` that has comparisons; an edge without end is None."""
    found = []
    for number, (low, high) in enumerate(pairwise(edges)):
        is_last = number == len(edges) - 2
        inside = (values >= low) & ((values <= high) if is_last else (values < high))
        if inside.any():
            entry = measure_accuracy(right[inside], clusters[inside], seed=seed)
            ends = {"low": low, "high": high}
            found.append({**{k: v if np.isfinite(v) else None for k, v in ends.items()}, **entry})
    return found


def find_quantile_edges(values: Floats) -> list[float]:
    """Edges that part the known values into about equally many; fewer where values repeat."""
    known = values[~np.isnan(values)]
    if not len(known):
        return []
    edges = np.unique(np.quantile(known, np.linspace(0.0, 1.0, QUARTERS + 1)))
    return [float(edge) for edge in (edges if len(edges) > 1 else np.repeat(edges, 2))]


def find_length_edges(length_difference: Floats) -> list[float]:
    """Half-way between whole numbers: much shorter, shorter, equal, longer, much longer.

    Much is the median of the differences that there are.
    """
    differing = np.abs(length_difference[length_difference != 0])
    much = max(float(np.floor(np.median(differing))), 2.0) if len(differing) else 2.0
    return [-np.inf, 0.5 - much, -0.5, 0.5, much - 0.5, np.inf]


def measure_by_annotator(held: HeldOutPairs, difference: Floats, *, seed: int) -> dict[str, Slice]:
    """Of each annotator: how often the model agrees with the votes that decide something, how
    often it agrees with everybody else's, and how often others who judged the same do."""
    units = group_votes(held)
    judged: dict[str, list[Vote]] = {}
    for (first, _, prompt), (votes, place) in units.items():
        lead = difference[place] if held.better[place] == first else -difference[place]
        for name, share in votes.items():
            if share != TIE:
                agrees = float(lead > 0 if share > TIE else lead < 0)
                judged.setdefault(name, []).append((agrees, prompt))
    humans = compute_agreement_with_others([votes for votes, _ in units.values() if len(votes) > 1])
    found = {}
    for name in sorted(judged):
        others = [vote for other in judged if other != name for vote in judged[other]]
        found[name] = {
            **_measure_agreement(judged[name], seed),
            "others": _measure_agreement(others, seed) if others else None,
            "agreement_with_others": humans.get(name),
        }
    return found


def _measure_agreement(votes: Sequence[Vote], seed: int) -> Slice:
    agrees, prompts = map(np.array, zip(*votes, strict=True))
    return measure_accuracy(agrees, prompts, seed=seed)


Unit = tuple[int, int, int]  # a response, a later one, their prompt


def group_votes(held: HeldOutPairs) -> dict[Unit, tuple[dict[str, float], int]]:
    """Of each two responses: all votes as shares for the first, and one comparison of the two."""
    units: dict[Unit, tuple[dict[str, float], int]] = {}
    for place, votes in enumerate(held.votes):
        better, worse = int(held.better[place]), int(held.worse[place])
        key = (min(better, worse), max(better, worse), int(held.prompt[better]))
        cast, _ = units.setdefault(key, ({}, place))
        cast |= {name: share if better < worse else 1.0 - share for name, share in votes.items()}
    return units
