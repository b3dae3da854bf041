"""Votes on the same two responses become one comparison, or stay apart. Pure."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from training.data.annotation.votes import TIE, Question, Ties, Vote

Votes = Literal["soft", "majority", "all"]


def comparison_row(
    question: Question, *, votes: Votes, ties: Ties, annotator_error: float
) -> dict[str, Any] | None:
    """A row of stage 2 for a question; None where nothing is decided.

    soft: the label is the share of votes, a tie counting half for each side. majority: 1 for the
    side with more votes; as many on both sides is a tie. all: each vote is a comparison.
    With `annotator_error` above 0 labels are what votes that are wrong that often are evidence for.
    A pair's `votes` keep who chose what, where votes are named, for the reward model's report.
    """
    pairs = []
    for (first, second), cast in _by_pair(question.votes).items():
        for group in [[vote] for vote in cast] if votes == "all" else [cast]:
            share = _share(group, votes, annotator_error)
            if share == TIE and ties == "drop" and votes != "soft":
                continue
            better, worse = (first, second) if share >= TIE else (second, first)
            label = max(share, 1.0 - share)
            pair = {"chosen": better, "rejected": worse, "label": round(label, 6)}
            named = {vote.annotator: vote.share for vote in group if vote.annotator}
            if better != first:
                named = {annotator: 1.0 - share for annotator, share in named.items()}
            pairs.append(pair | ({"votes": named} if named else {}))
    if not pairs:
        return None
    return {"prompt": question.prompt, "responses": question.responses, "pairs": pairs}


def _by_pair(votes: Sequence[Vote]) -> dict[tuple[int, int], list[Vote]]:
    pairs: dict[tuple[int, int], list[Vote]] = {}
    for vote in votes:
        pairs.setdefault((vote.first, vote.second), []).append(vote)
    return pairs


def _share(votes: Sequence[Vote], rule: Votes, error: float) -> float:
    """P(the first response is better), from the votes on it and the second."""
    mean = sum(vote.share for vote in votes) / len(votes)
    if rule == "soft":
        return evidence(votes, error) if error > 0 else mean
    decided = TIE if mean == TIE else float(mean > TIE)
    return decided if error <= 0 or decided == TIE else evidence(votes, error)


def evidence(votes: Sequence[Vote], error: float) -> float:
    """P(first is better | votes), for voters who each err with this chance, and an even prior.

    A vote multiplies the odds by (1 - error) / error, a tie leaves them.
    """
    lead = sum(2.0 * vote.share - 1.0 for vote in votes)
    if error >= TIE:
        return TIE
    odds = math.exp(-abs(lead) * math.log((1.0 - error) / error))  # against the side that leads
    return 1.0 / (1.0 + odds) if lead >= 0 else odds / (1.0 + odds)
