"""Groups of responses to one prompt: split to a size, with shuffled labels, or of some prompts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.data.encode import EncodedGroup, count_tokens
from training.data.lazy import Lazy
from training.data.records import Pair
from training.data.tables import TableView
from training.draws import make_random


@dataclass(frozen=True)
class Subgroup:
    """Some responses of a group, and comparisons among them, numbered within the subgroup."""

    group: int
    responses: tuple[int, ...]
    pairs: tuple[Pair, ...]
    longest: int  # tokens of the prompt with its longest response in the subgroup


class Subgroups(Lazy[EncodedGroup]):
    """Subgroups and whole groups, each made when it is asked for."""

    def __init__(self, groups: Sequence[EncodedGroup], items: Sequence[int | Subgroup]) -> None:
        """A number in `items` is a whole group."""
        self._groups = groups
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def make_item(self, index: int) -> EncodedGroup:
        item = self._items[index]
        if isinstance(item, int):
            return self._groups[item]
        group = self._groups[item.group]
        responses = [group.response_ids[response] for response in item.responses]
        return EncodedGroup(group.prompt_ids, responses, item.pairs, group.source)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each one's longest sequence."""
        lengths = measure_groups(self._groups)
        return [lengths[i] if isinstance(i, int) else i.longest for i in self._items]

    @property
    def counts(self) -> list[int]:
        """Number of responses of each."""
        counts = _count_responses(self._groups)
        return [counts[i] if isinstance(i, int) else len(i.responses) for i in self._items]


def split_groups(groups: Sequence[EncodedGroup], *, size: int, seed: int, epoch: int) -> Subgroups:
    """Split groups into subgroups of at most `size` responses.

    A larger group with many comparisons is dealt into subgroups, differently in each epoch;
    comparisons between two subgroups wait for another epoch. One with few comparisons is cut along
    them and loses none.
    """
    items: list[int | Subgroup] = []
    for index, count in enumerate(_count_responses(groups)):
        if count <= size:
            items.append(index)
            continue
        group = groups[index]
        draw = make_random(seed, epoch, index, separator=":")
        is_dense = len(group.pairs) > len(group.response_ids)
        parts = (is_dense and _deal_responses(group, size, draw)) or _cut_pairs(group, size, draw)
        items += [_make_subgroup(group, index, *part) for part in parts]
    return Subgroups(groups, items)


Parts = list[tuple[list[int], list[Pair]]]  # responses, and the comparisons among them


def _deal_responses(group: EncodedGroup, size: int, draw: random.Random) -> Parts:
    """Put each response into one part, at random; drop parts without a comparison."""
    order = list(range(len(group.response_ids)))
    draw.shuffle(order)
    count = -(-len(order) // size)
    hands = [order[first::count] for first in range(count)]
    parts = [
        (hand, [pair for pair in group.pairs if {pair.chosen, pair.rejected} <= set(hand)])
        for hand in hands
    ]
    return [part for part in parts if part[1]]


def _cut_pairs(group: EncodedGroup, size: int, draw: random.Random) -> Parts:
    """Put each comparison into one part, at random; a response may be in several parts."""
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
    return [(list(responses), kept) for responses, kept in parts]


def _make_subgroup(
    group: EncodedGroup, index: int, responses: Sequence[int], pairs: Sequence[Pair]
) -> Subgroup:
    number_of = {response: number for number, response in enumerate(responses)}
    renumbered = tuple(
        replace(pair, chosen=number_of[pair.chosen], rejected=number_of[pair.rejected])
        for pair in pairs
    )
    most = max(len(group.response_ids[response]) for response in responses)
    return Subgroup(index, tuple(responses), renumbered, len(group.prompt_ids) + most)


def shuffle_labels(groups: Sequence[EncodedGroup], *, seed: int) -> list[EncodedGroup]:
    """Permute each group's responses under its comparisons.

    A reward model trained on the result has nothing to learn: the control experiment.
    """
    shuffled = []
    for index, group in enumerate(groups):
        order = list(range(len(group.response_ids)))
        make_random(seed, "shuffle", index, separator=":").shuffle(order)
        pairs = tuple(
            replace(pair, chosen=order[pair.chosen], rejected=order[pair.rejected])
            for pair in group.pairs
        )
        shuffled.append(replace(group, pairs=pairs))
    return shuffled


def take_prompts(groups: Sequence[EncodedGroup], share: float, *, seed: int) -> Subgroups:
    """Take the groups of a share of the prompts, in order; a larger share holds a smaller one."""
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for index, group in enumerate(groups):
        rows_of.setdefault(tuple(group.prompt_ids), []).append(index)
    prompts = list(rows_of)
    make_random(seed, "nested", separator=":").shuffle(prompts)
    kept = prompts[: max(round(share * len(prompts)), 1)]
    return Subgroups(groups, sorted(index for prompt in kept for index in rows_of[prompt]))


def measure_groups(groups: Sequence[EncodedGroup]) -> list[int]:
    """Count the tokens of each group's prompt with its longest response."""
    if isinstance(groups, TableView | Subgroups):
        return groups.lengths
    return [max(count_tokens(group)) for group in groups]


def _count_responses(groups: Sequence[EncodedGroup]) -> list[int]:
    if isinstance(groups, TableView | Subgroups):
        return groups.counts
    return [len(group.response_ids) for group in groups]
