"""Groups of responses to one prompt: cut to a size, shuffled, or a part of them taken."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.data.encode import EncodedGroup, count_tokens
from training.data.lazy import Lazy
from training.data.records import Pair
from training.data.tables import TableView
from training.draws import make_random


@dataclass(frozen=True)
class Share:
    """Some responses of a group, with comparisons among them, numbered within the share."""

    group: int
    responses: tuple[int, ...]
    pairs: tuple[Pair, ...]
    longest: int  # tokens of the prompt with its longest response in the share


class Shares(Lazy[EncodedGroup]):
    """Groups, some of them in shares; each is put together when it is asked for."""

    def __init__(self, groups: Sequence[EncodedGroup], shares: Sequence[int | Share]) -> None:
        """A number in `shares` is a group as a whole."""
        self._groups = groups
        self._shares = shares

    def __len__(self) -> int:
        return len(self._shares)

    def make_item(self, place: int) -> EncodedGroup:
        share = self._shares[place]
        if isinstance(share, int):
            return self._groups[share]
        group = self._groups[share.group]
        responses = [group.response_ids[response] for response in share.responses]
        return EncodedGroup(group.prompt_ids, responses, share.pairs, group.source)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each one's longest sequence."""
        lengths = measure_groups(self._groups)
        return [lengths[s] if isinstance(s, int) else s.longest for s in self._shares]

    @property
    def counts(self) -> list[int]:
        """How many responses each has."""
        counts = _counts(self._groups)
        return [counts[s] if isinstance(s, int) else len(s.responses) for s in self._shares]


def split_groups(groups: Sequence[EncodedGroup], *, size: int, seed: int, epoch: int) -> Shares:
    """Groups of at most `size` responses.

    A larger group whose responses meet often is dealt anew into parts each epoch; comparisons
    between two parts wait for another epoch. One with few comparisons is cut along them and
    loses none.
    """
    shares: list[int | Share] = []
    for index, count in enumerate(_counts(groups)):
        if count <= size:
            shares.append(index)
            continue
        group = groups[index]
        draw = make_random(seed, epoch, index, separator=":")
        is_dense = len(group.pairs) > len(group.response_ids)
        parts = (is_dense and _dealt(group, size, draw)) or _cut(group, size, draw)
        shares += [_share(group, index, *part) for part in parts]
    return Shares(groups, shares)


Parts = list[tuple[list[int], list[Pair]]]  # responses, and the comparisons among them


def _dealt(group: EncodedGroup, size: int, draw: random.Random) -> Parts:
    """Each response in one part, at random; parts without a comparison are left out."""
    order = list(range(len(group.response_ids)))
    draw.shuffle(order)
    count = -(-len(order) // size)
    dealt = [order[first::count] for first in range(count)]
    parts = [
        (part, [pair for pair in group.pairs if {pair.chosen, pair.rejected} <= set(part)])
        for part in dealt
    ]
    return [part for part in parts if part[1]]


def _cut(group: EncodedGroup, size: int, draw: random.Random) -> Parts:
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
    return [(list(responses), held) for responses, held in parts]


def _share(
    group: EncodedGroup, index: int, responses: Sequence[int], pairs: Sequence[Pair]
) -> Share:
    place = {response: number for number, response in enumerate(responses)}
    inside = tuple(
        replace(pair, chosen=place[pair.chosen], rejected=place[pair.rejected]) for pair in pairs
    )
    most = max(len(group.response_ids[response]) for response in responses)
    return Share(index, tuple(responses), inside, len(group.prompt_ids) + most)


def shuffle_labels(groups: Sequence[EncodedGroup], *, seed: int) -> list[EncodedGroup]:
    """The same groups with each one's responses permuted under its comparisons.

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


def take_prompts(groups: Sequence[EncodedGroup], share: float, *, seed: int) -> Shares:
    """The groups of a share of the prompts, in their order; a smaller share is part of a larger."""
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for index, group in enumerate(groups):
        rows_of.setdefault(tuple(group.prompt_ids), []).append(index)
    prompts = list(rows_of)
    make_random(seed, "nested", separator=":").shuffle(prompts)
    kept = prompts[: max(round(share * len(prompts)), 1)]
    return Shares(groups, sorted(index for prompt in kept for index in rows_of[prompt]))


def measure_groups(groups: Sequence[EncodedGroup]) -> list[int]:
    """Tokens of each group's prompt with its longest response."""
    if isinstance(groups, TableView | Shares):
        return groups.lengths
    return [max(count_tokens(group)) for group in groups]


def _counts(groups: Sequence[EncodedGroup]) -> list[int]:
    if isinstance(groups, TableView | Shares):
        return groups.counts
    return [len(group.response_ids) for group in groups]
