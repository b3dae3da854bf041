"""Groups cut to a size, shuffled, and judged by their scores."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest

from training.data.encode import EncodedGroup
from training.data.groups import measure_groups, shuffle_labels, split_groups, take_prompts
from training.data.records import Pair


def group_of(responses: int, pairs: list[tuple[int, int]], name: str = "row") -> EncodedGroup:
    """Response i is [i, i, ...] of i + 1 tokens, and pair (i, j) has the gap 100 i + j."""
    ids = [[i] * (i + 1) for i in range(responses)]
    made = tuple(Pair(i, j, gap=100.0 * i + j) for i, j in pairs)
    return EncodedGroup([7, 7], ids, made, name)


def compared(parts: Sequence[EncodedGroup]) -> Counter[tuple[int, int]]:
    """Which first tokens are compared; checks that a pair kept its own gap."""
    found: Counter[tuple[int, int]] = Counter()
    for part in parts:
        for pair in part.pairs:
            sides = part.response_ids[pair.chosen][0], part.response_ids[pair.rejected][0]
            assert pair.gap == 100.0 * sides[0] + sides[1]
            found[sides] += 1
    return found


DENSE = list(combinations(range(10), 2))
SPARSE = [(i, i + 1) for i in range(9)]


def test_a_group_that_fits_is_left_alone():
    group = group_of(4, [(0, 1), (2, 3)])
    assert list(split_groups([group], size=4, seed=0, epoch=3)) == [group]


@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_a_dense_group_is_dealt_into_parts_without_overlap(size):
    parts = list(split_groups([group_of(10, DENSE)], size=size, seed=0, epoch=0))
    members = [ids[0] for part in parts for ids in part.response_ids]
    assert len(set(members)) == len(members)
    assert all(2 <= len(part.response_ids) <= size for part in parts)
    for part in parts:
        assert len(part.pairs) == len(part.response_ids) * (len(part.response_ids) - 1) // 2
    assert set(compared(parts)) <= set(DENSE)


def test_over_epochs_every_comparison_of_a_dense_group_is_seen():
    group = group_of(10, DENSE)
    dealt = [list(split_groups([group], size=4, seed=0, epoch=epoch)) for epoch in range(40)]
    seen = [compared(parts) for parts in dealt]
    assert set().union(*seen) == set(DENSE)
    assert list(split_groups([group], size=4, seed=0, epoch=1)) == dealt[1]
    assert seen[0] != seen[1]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_sparse_group_is_cut_along_its_comparisons_and_loses_none(size):
    parts = list(split_groups([group_of(10, SPARSE)], size=size, seed=0, epoch=0))
    assert compared(parts) == Counter(SPARSE)
    assert all(len(part.response_ids) <= size for part in parts)


def test_a_dense_group_whose_deal_parts_all_pairs_is_cut_instead():
    # All comparisons are with response 0 or 1: parts of 2 often hold none of them.
    star = [(hub, leaf) for hub in (0, 1) for leaf in range(2, 10)]
    for epoch in range(30):
        assert compared(list(split_groups([group_of(10, star)], size=2, seed=0, epoch=epoch)))


def test_shuffled_labels_keep_the_number_of_comparisons_and_move_the_responses():
    group = group_of(10, SPARSE)
    (shuffled,) = shuffle_labels([group], seed=1)
    assert shuffled.response_ids == group.response_ids
    moved = [(pair.chosen, pair.rejected) for pair in shuffled.pairs]
    assert len(moved) == len(SPARSE)
    assert moved != SPARSE
    assert Counter(Counter(side for pair in moved for side in pair).values()) == Counter(
        {2: 8, 1: 2}
    )


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_the_prompts_are_nested_and_keep_a_prompts_rows_together(seed):
    groups = [EncodedGroup([n // 2], [[1], [2]], (Pair(0, 1),), f"r{n}") for n in range(20)]
    parts = [take_prompts(groups, share, seed=seed) for share in (0.01, 0.25, 0.5, 1.0)]
    sources = [[group.source for group in part] for part in parts]
    assert [len(part) for part in parts] == [2, 4, 10, 20]  # 0.25 of 10 prompts is 2 (2.5)
    for smaller, larger in pairwise(sources):
        assert set(smaller) <= set(larger)
        assert smaller == [source for source in larger if source in smaller]  # in the data's order
    for part in parts:
        assert all(count == 2 for count in Counter(g.prompt_ids[0] for g in part).values())
    assert sources[2] != [group.source for group in groups[:10]]


def test_a_part_of_a_part_that_is_made_when_asked_for_is_regrouped_as_a_list_is():
    groups = [group_of(3 + n % 6, SPARSE[: 2 + n % 6], f"r{n}") for n in range(12)]
    groups = [EncodedGroup([n], g.response_ids, g.pairs, g.source) for n, g in enumerate(groups)]
    part = take_prompts(take_prompts(groups, 0.8, seed=0), 0.5, seed=1)
    assert part.counts == [len(group.response_ids) for group in part]
    assert part.lengths == measure_groups(list(part))
    lazily = split_groups(part, size=3, seed=2, epoch=1)
    at_once = split_groups(list(part), size=3, seed=2, epoch=1)
    assert list(lazily) == list(at_once)
    assert lazily.lengths == at_once.lengths
    assert lazily.counts == [len(group.response_ids) for group in at_once]


def test_longest_counts_the_prompt():
    assert measure_groups([group_of(5, [(0, 1)])]) == [2 + 5]
