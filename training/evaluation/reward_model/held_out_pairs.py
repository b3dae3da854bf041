"""Held-out comparisons as columns, which a model's scores are then laid beside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.encode import EncodedGroup
from training.data.records import Pair
from training.evaluation.statistics import Floats, Ints

TIE = 0.5


@dataclass(frozen=True)
class HeldOutPairs:
    """P comparisons among R distinct responses, each the better side first as people see it.

    A response in several rows of one prompt is one response. Comparisons of one
    prompt share responses and are not independent.
    """

    prompt: Ints  # [R] which prompt a response answers, counted from 0
    tokens: Ints  # [R] its length, EOS included
    place: tuple[tuple[int, int], ...]  # [R] (group, response) of its first row
    better: Ints  # [P] indices of responses; of a tie the row's own order
    worse: Ints  # [P]
    label: Floats  # [P] chance that `better` is better, the share of raters; 0.5 is a tie
    gap: Floats  # [P] how far apart people rated the two; NaN where the row does not say
    votes: tuple[Mapping[str, float], ...]  # [P] annotator: 1 for `better`, 0 for `worse`
    sources: tuple[str, ...]  # [P] "path:line"

    @property
    def cluster(self) -> Ints:  # [P]
        """The prompt of each comparison: what intervals resample."""
        return self.prompt[self.better]

    @property
    def is_decided(self) -> NDArray[np.bool_]:  # [P]
        """All but ties, which have no right order."""
        return self.label > TIE

    @property
    def length_difference(self) -> Floats:  # [P]
        """Tokens of the better response minus those of the worse."""
        return (self.tokens[self.better] - self.tokens[self.worse]).astype(np.float64)

    def flat(self, scores: Sequence[Sequence[float]]) -> Floats:  # [R]
        """Scores by group and response, as one column."""
        return np.array([scores[group][response] for group, response in self.place])

    def difference(self, scores: Floats) -> Floats:  # [R] -> [P]
        """Score of the better response minus that of the worse."""
        return scores[self.better] - scores[self.worse]


def held_out_pairs(groups: Sequence[EncodedGroup]) -> HeldOutPairs:
    """All comparisons of these groups."""
    prompts: dict[tuple[int, ...], int] = {}
    responses: dict[tuple[int, tuple[int, ...]], int] = {}
    places: list[tuple[int, int]] = []
    sides: list[tuple[int, int]] = []
    pairs: list[tuple[Pair, str]] = []
    for number, group in enumerate(groups):
        prompt = prompts.setdefault(tuple(group.prompt_ids), len(prompts))
        here = []
        for place, ids in enumerate(group.response_ids):
            key = (prompt, tuple(ids))
            if key not in responses:
                responses[key] = len(responses)
                places.append((number, place))
            here.append(responses[key])
        for pair in group.pairs:
            chosen, rejected = here[pair.chosen], here[pair.rejected]
            sides.append((rejected, chosen) if pair.label < TIE else (chosen, rejected))
            pairs.append((pair, group.source))
    columns = np.array(sides, dtype=np.int64).reshape(-1, 2)
    return HeldOutPairs(
        prompt=np.array([prompt for prompt, _ in responses], dtype=np.int64),
        tokens=np.array([len(ids) for _, ids in responses], dtype=np.int64),
        place=tuple(places),
        better=columns[:, 0],
        worse=columns[:, 1],
        label=np.array([max(pair.label, 1.0 - pair.label) for pair, _ in pairs], dtype=np.float64),
        gap=np.array([np.nan if p.gap is None else abs(p.gap) for p, _ in pairs], dtype=np.float64),
        votes=tuple(
            {name: 1.0 - share if pair.label < TIE else share for name, share in pair.votes}
            for pair, _ in pairs
        ),
        sources=tuple(source for _, source in pairs),
    )
