"""Groups of responses to one prompt: cut to a size, shuffled, or a part of them taken."""

import random
from collections.abc import Sequence
from dataclasses import replace

from training.data.encode import EncodedGroup
from training.data.records import Pair


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


def nested_part(groups: Sequence[EncodedGroup], share: float, *, seed: int) -> list[EncodedGroup]:
    """The groups of a share of the prompts, in their order; a smaller share is part of a larger."""
    prompts = list(dict.fromkeys(tuple(group.prompt_ids) for group in groups))
    random.Random(f"{seed}:nested").shuffle(prompts)
    kept = set(prompts[: max(round(share * len(prompts)), 1)])
    return [group for group in groups if tuple(group.prompt_ids) in kept]


def longest(group: EncodedGroup) -> int:
    """Tokens of the group's prompt with its longest response."""
    return len(group.prompt_ids) + max(len(response) for response in group.response_ids)
