"""Choose few runs of many, so that each two settings of any run still occur together in one."""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import TypeVar

Run = TypeVar("Run")


def pairs_of(settings: Iterable[str]) -> set[tuple[str, str]]:
    """All unordered pairs of distinct settings."""
    return set(combinations(sorted(set(settings)), 2))


def cover_pairs(
    runs: Sequence[Run], settings: Callable[[Run], Iterable[str]], first: Iterable[Run] = ()
) -> list[Run]:
    """Return `first`, then greedily the runs that add the most pairs of settings, until none adds.

    Greedy set cover: at most a few runs more than the fewest that there could be.
    """
    chosen = list(first)
    pairs = {number: pairs_of(settings(run)) for number, run in enumerate(runs)}
    missing = set().union(*pairs.values())
    for run in chosen:
        missing -= pairs_of(settings(run))
    while missing:
        best = max(pairs, key=lambda number: len(pairs[number] & missing))
        chosen.append(runs[best])
        missing -= pairs[best]
    return chosen
