"""Baselines of a reward model's accuracy: chance, and a rule that counts tokens. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.data.encode import EncodedGroup
from training.evaluation.reward_model.held_out_pairs import TIE, HeldOutPairs
from training.evaluation.statistics import Floats

DRAWS = 1000
MOST_WORK = 20_000_000  # responses and comparisons of all draws: about two seconds
FEWEST_DRAWS = 100

Side = Literal["longer", "shorter"]


def mark_correct(difference: Floats, held: HeldOutPairs) -> Floats:  # [decided]
    """1 where scores order a decided comparison as people did, else 0; equal scores order none."""
    right: Floats = (difference[held.is_decided] > 0).astype(np.float64)
    return right


def sample_chance_accuracies(held: HeldOutPairs, scores: Floats, *, seed: int) -> Floats:  # [draws]
    """Shuffle the scores among the responses of each prompt; return the accuracies.

    Comparisons keep their shared responses, so the spread is that of a model that knows nothing
    on these very comparisons: a permutation test, as training on shuffled labels is but without
    training.
    """
    generator = np.random.default_rng(seed)
    decided = held.is_decided
    better, worse = held.better[decided], held.worse[decided]
    size = len(scores) + len(better)
    draws = min(DRAWS, max(MOST_WORK // size, FEWEST_DRAWS))
    by_prompt = np.argsort(held.prompt, kind="stable")
    dealt, found = np.empty_like(scores), np.empty(draws)
    for draw in range(draws):
        # In the order of (prompt, random number), written back in the order of (prompt, place).
        dealt[by_prompt] = scores[np.argsort(held.prompt + generator.random(len(scores)))]
        found[draw] = (dealt[better] > dealt[worse]).mean()
    return found


@dataclass(frozen=True)
class LengthRule:
    """Prefer the longer response, or the shorter: whichever is right more often in training."""

    prefers: Side
    train_accuracy: float | None  # of the comparisons that it decides; None without any

    def outcomes(self, held: HeldOutPairs) -> Floats:  # [decided]
        """1 where the rule is right, 0 where wrong, 1/2 where both are equally long."""
        sign = 1.0 if self.prefers == "longer" else -1.0
        return (np.sign(sign * held.length_difference[held.is_decided]) + 1.0) / 2.0


def learn_length_rule(groups: Sequence[EncodedGroup]) -> LengthRule:
    """The rule that the training comparisons teach."""
    longer = decided = 0
    for group in groups:
        for pair in group.pairs:
            more = len(group.response_ids[pair.chosen]) - len(group.response_ids[pair.rejected])
            if more and pair.label != TIE:
                decided += 1
                longer += (more > 0) == (pair.label > TIE)
    if not decided:
        return LengthRule("longer", None)
    share = longer / decided
    return LengthRule("longer" if share >= 0.5 else "shorter", max(share, 1.0 - share))


def correlate_with_length(difference: Floats, length_difference: Floats) -> float | None:
    """Correlation of score difference with length difference over all comparisons both ways.

    Both ways means are 0, so it is sum(s l) / sqrt(sum(s^2) sum(l^2)) and does not depend on which
    side a comparison names first. None where scores or lengths never differ.
    """
    scale = float(np.sqrt(np.square(difference).sum() * np.square(length_difference).sum()))
    return float((difference * length_difference).sum()) / scale if scale else None
