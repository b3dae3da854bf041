"""Groups of responses to one prompt: cut to a size that fits a forward, or shuffled."""

import random
from collections.abc import Sequence
from dataclasses import replace

from training.data.encode import EncodedGroup


def regroup(
    groups: Sequence[EncodedGroup], *, size: int, seed: int, epoch: int
) -> list[EncodedGroup]:
    """Groups of at most `size` responses; a larger one is dealt anew into parts each epoch.

    Comparisons between two parts are left out of that epoch, and so are parts without any.
    """
    parts = []
    for index, group in enumerate(groups):
        if len(group.response_ids) <= size:
            parts.append(group)
            continue
        order = list(range(len(group.response_ids)))
        random.Random(f"{seed}:{epoch}:{index}").shuffle(order)
        count = -(-len(order) // size)
        parts.extend(_part(group, order[part::count]) for part in range(count))
    return [group for group in parts if group.pairs]


def _part(group: EncodedGroup, chosen: Sequence[int]) -> EncodedGroup:
    place = {response: index for index, response in enumerate(chosen)}
    pairs = tuple(
        replace(pair, chosen=place[pair.chosen], rejected=place[pair.rejected])
        for pair in group.pairs
        if pair.chosen in place and pair.rejected in place
    )
    responses = [group.response_ids[index] for index in chosen]
    return EncodedGroup(group.prompt_ids, responses, pairs, group.source)


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
