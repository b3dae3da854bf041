import random
from itertools import pairwise

import pytest

from training.data.batches import (
    PromptStream,
    plan_epoch,
    plan_micro_batches,
    plan_step,
    split_for_rank,
)


def random_lengths(count: int, seed: int = 0) -> list[int]:
    return [random.Random(seed + n).randint(1, 100) for n in range(count)]


def flat(batches):
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("count", [1, 7, 64, 1000])
@pytest.mark.parametrize("batch_size", [1, 8, 33])
def test_an_epoch_has_every_row_once(count, batch_size):
    batches = plan_epoch(random_lengths(count), batch_size, seed=3, epoch=0)
    assert sorted(flat(batches)) == list(range(count))
    assert sorted(map(len, batches), reverse=True)[:-1] == [batch_size] * (len(batches) - 1)


def test_an_epochs_order_follows_seed_and_epoch():
    def order(seed, epoch):
        return plan_epoch(random_lengths(200), 8, seed=seed, epoch=epoch)

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)


def test_rows_of_like_length_share_a_batch():
    lengths = random_lengths(2000)

    def waste(batches):
        padded = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
        return padded / sum(lengths) - 1

    bucketed = plan_epoch(lengths, 16, seed=0, epoch=0)
    rows = list(range(2000))
    random.Random(0).shuffle(rows)
    assert waste([rows[i : i + 16] for i in range(0, 2000, 16)]) > 0.6
    assert waste(bucketed) < 0.1


def test_batches_do_not_come_in_order_of_length():
    lengths = random_lengths(2000)
    longest = [max(lengths[r] for r in b) for b in plan_epoch(lengths, 16, seed=0, epoch=0)]
    falls = sum(a > b for a, b in pairwise(longest))
    assert 0.3 < falls / len(longest) < 0.7


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 5, 32])
def test_ranks_share_a_batch_evenly_and_without_overlap(count, size):
    lengths = random_lengths(100)
    batch = random.Random(count).sample(range(100), count)
    shares = [split_for_rank(batch, lengths, rank=rank, size=size) for rank in range(size)]
    assert sorted(flat(shares)) == sorted(batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    totals = [sum(lengths[row] for row in share) for share in shares]
    assert max(totals) - min(totals) <= max(lengths[row] for row in batch)


def test_a_row_that_is_twice_in_a_batch_is_dealt_twice():
    shares = [split_for_rank([4, 4, 1], [1] * 5, rank=rank, size=2) for rank in (0, 1)]
    assert sorted(flat(shares)) == [1, 4, 4]


def test_a_ranks_share_by_hand():
    lengths = [10, 40, 20, 30]  # longest first: 1 3 2 0, dealt 0 1 1 0
    assert split_for_rank([0, 1, 2, 3], lengths, rank=0, size=2) == [0, 1]
    assert split_for_rank([0, 1, 2, 3], lengths, rank=1, size=2) == [2, 3]


def test_micro_batches_by_hand():
    lengths = [3, 9, 4, 2, 4, 30]
    # 30 is over the budget and alone; 9 + a second row would be 18; then 4 x 3 rows; then 2.
    plan = plan_micro_batches(range(6), lengths, token_budget=12)
    assert plan == [[5], [1], [2, 4, 0], [3]]


@pytest.mark.parametrize("budget", [1, 50, 120, 1000, 10**9])
def test_micro_batches_keep_to_the_budget_and_lose_no_row(budget):
    lengths = random_lengths(300)
    plan = plan_micro_batches(range(300), lengths, token_budget=budget)
    assert sorted(flat(plan)) == list(range(300))
    for rows in plan:
        assert len(rows) == 1 or max(lengths[row] for row in rows) * len(rows) <= budget


@pytest.mark.parametrize("budget", [1, 40, 100, 5000])
def test_micro_batches_of_groups_keep_to_the_budget_after_padding(budget):
    draw = random.Random(3)
    lengths = [draw.randint(1, 60) for _ in range(200)]
    counts = [draw.randint(1, 9) for _ in range(200)]
    plan = plan_micro_batches(range(200), lengths, token_budget=budget, counts=counts)
    assert sorted(row for batch in plan for row in batch) == list(range(200))
    for batch in plan:
        padded = max(lengths[row] for row in batch) * sum(counts[row] for row in batch)
        assert padded <= budget or len(batch) == 1


@pytest.mark.parametrize("count", [1, 2, 11, 40])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_rank_plans_equally_many_micro_batches(count, size):
    lengths = random_lengths(40)
    plans = [
        plan_step(range(count), lengths, token_budget=150, rank=rank, size=size)
        for rank in range(size)
    ]
    assert len({len(plan) for plan in plans}) == 1
    assert sorted(row for plan in plans for row in flat(plan)) == list(range(count))
    for plan in plans:
        assert plan == sorted(plan, key=bool, reverse=True)  # the empty ones are last


@pytest.mark.parametrize(("count", "batch_size"), [(10, 5), (10, 3), (3, 10), (1, 4), (7, 7)])
def test_a_prompt_stream_repeats_nothing_inside_an_epoch(count, batch_size):
    stream = PromptStream(count, batch_size, seed=5)
    rows = flat(stream.select_rows(step) for step in range(1, 3 * count + 1))
    for start in range(0, len(rows) - count + 1, count):
        assert sorted(rows[start : start + count]) == list(range(count))


def test_a_prompt_stream_gives_any_step_directly():
    stream = PromptStream(100, 7, seed=0)
    in_order = [stream.select_rows(step) for step in range(1, 60)]
    assert PromptStream(100, 7, seed=0).select_rows(40) == in_order[39]
    assert PromptStream(100, 7, seed=1).select_rows(40) != in_order[39]
    assert flat(in_order[:14]) != flat(in_order[15:29])  # epochs differ


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="batch_size"):
        plan_epoch([1], 0, seed=0, epoch=0)
    with pytest.raises(ValueError, match="token_budget"):
        plan_micro_batches([0], [1], token_budget=0)
    with pytest.raises(ValueError, match="rank"):
        split_for_rank([0], [1], rank=2, size=2)
    with pytest.raises(ValueError, match="count"):
        PromptStream(0, 4, seed=0)
    with pytest.raises(ValueError, match="step"):
        PromptStream(4, 4, seed=0).select_rows(0)
