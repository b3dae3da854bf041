"""Groups of responses to one prompt: cut to a size, shuffled, or judged by their scores."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.data.encode import EncodedGroup
from training.data.records import Pair


@dataclass(frozen=True)
class Verdict:
    """How a model's scores order one comparison. Ties have no right order and no verdict."""

    difference: float  # score of chosen minus score of rejected
    is_right: bool
    gap: float  # by how much people rated chosen higher, 0 where the row does not say
    agreement: float  # the share of raters who agree with the label, 1 for a hard label
    source: str  # the row it came from: verdicts of one row are not independent


def verdicts(group: EncodedGroup, scores: Sequence[float]) -> list[Verdict]:
    """One for each decided comparison of the group; `scores` [K] are its responses'."""
    found = []
    for pair in group.pairs:
        if pair.label == 0.5:
            continue
        difference = scores[pair.chosen] - scores[pair.rejected]
        is_right = difference > 0 if pair.label > 0.5 else difference < 0
        agreement = max(pair.label, 1.0 - pair.label)
        found.append(Verdict(difference, is_right, pair.gap or 0.0, agreement, group.source))
    return found


def regroup(
    groups: Sequence[EncodedGroup], *, size: int, seed: int, epoch: int
) -> list[EncodedGroup]:
    """Groups of at most `size` responses.

    A larger group whose responses meet often is dealt anew into parts each epoch; comparisons
    between two parts wait for another epoch. One with few comparisons is cut along them and
    loses none.
    """
    parts = []
    for index, group in enumerate(groups):
        if len(group.response_ids) <= size:
            parts.append(group)
            continue
        draw = random.Random(f"{seed}:{epoch}:{index}")
        is_dense = len(group.pairs) > len(group.response_ids)
        parts += (is_dense and _dealt(group, size, draw)) or _cut(group, size, draw)
    return parts


def _dealt(group: EncodedGroup, size: int, draw: random.Random) -> list[EncodedGroup]:
    """Each response in one part, at random; parts without a comparison are left out."""
    order = list(range(len(group.response_ids)))
    draw.shuffle(order)
    count = -(-len(order) // size)
    dealt = [_part(group, order[first::count], group.pairs) for first in range(count)]
    return [part for part in dealt if part.pairs]


def _cut(group: EncodedGroup, size: int, draw: random.Random) -> list[EncodedGroup]:
    """Each comparison in one part, at random; a response may stand in several parts."""
    pairs = list(group.pairs)
    draw.shuffle(pairs)
    parts: list[tuple[dict[int, None], list[Pair]]] = []
    for pair in pairs:
        sides = {pair.chosen: None, pair.rejected: None}
        if parts and len(parts[-1][0] | sides) <= size:
            parts[-1][0].update(sides)
            parts[-1][1].append(pair)
        else:
            parts.append((sides, [pair]))
    return [_part(group, list(responses), held) for responses, held in parts]


def _part(group: EncodedGroup, chosen: Sequence[int], pairs: Sequence[Pair]) -> EncodedGroup:
    """The group of these responses alone, with those of `pairs` that lie within it."""
    place = {response: index for index, response in enumerate(chosen)}
    inside = tuple(
        replace(pair, chosen=place[pair.chosen], rejected=place[pair.rejected])
        for pair in pairs
        if pair.chosen in place and pair.rejected in place
    )
    responses = [group.response_ids[index] for index in chosen]
    return EncodedGroup(group.prompt_ids, responses, inside, group.source)


def shuffle_labels(groups: Sequence[EncodedGroup], *, seed: int) -> list[EncodedGroup]:
    """The same groups with each one's responses permuted under its comparisons.

    A reward model trained on the result has nothing to learn: the control experiment.
    """
    shuffled = []
    for index, group in enumerate(groups):
        order = list(range(len(group.response_ids)))
        random.Random(f"{seed}:shuffle:{index}").shuffle(order)
        pairs = tuple(
            replace(pair, chosen=order[pair.chosen], rejected=order[pair.rejected])
            for pair in group.pairs
        )
        shuffled.append(replace(group, pairs=pairs))
    return shuffled


def longest(group: EncodedGroup) -> int:
    """Tokens of the group's prompt with its longest response."""
    return len(group.prompt_ids) + max(len(response) for response in group.response_ids)
