"""Rows that hold several sequences: which, in what order, and when it pays."""

import random
from dataclasses import replace

import pytest

from training.data.batches import plan_micro_batches
from training.data.packing import (
    NOTHING,
    RowRules,
    Sample,
    count_padded_tokens,
    pack_best_fit,
    pack_micro_batches,
    plan_packed_step,
    plan_rows,
)

RULES = RowRules("auto", token_budget=200, longest_row=64, attention_width=400, padding_cost=1.0)


def texts(count, *, longest=60, seed=0):
    draw = random.Random(seed)
    return [Sample(0, (draw.randint(2, longest),)) for _ in range(count)]


def groups(count, *, prompt=20, seed=0):
    draw = random.Random(seed)
    return [
        Sample(prompt, tuple(draw.randint(1, 20) for _ in range(draw.randint(2, 6))))
        for _ in range(count)
    ]


def held(plan):
    """(sample, response) of every sequence, and the rows' lengths."""
    rows = [row for micro_batch in plan for row in micro_batch.rows]
    sequences = [(doc.sample, k) for row in rows for doc in row for k in doc.responses]
    return sequences, [sum(doc.tokens for doc in row) for row in rows]


def test_best_fit_by_hand():
    # 7 opens a bin; 6 another; 3 fits the first best; 2 and 2 fit the second; 12 is alone.
    assert pack_best_fit([2, 7, 3, 12, 6, 2], 10) == [[3], [1, 2], [4, 0, 5]]
    assert pack_best_fit([], 10) == []


@pytest.mark.parametrize("capacity", [1, 30, 61, 500])
def test_bins_hold_each_length_once_and_none_beyond_its_capacity(capacity):
    draw = random.Random(0)
    lengths = [draw.randint(1, 60) for _ in range(300)]
    bins = pack_best_fit(lengths, capacity)
    assert sorted(place for held in bins for place in held) == list(range(300))
    assert all(sum(lengths[p] for p in held) <= capacity or len(held) == 1 for held in bins)
    assert pack_best_fit(lengths, capacity) == bins


@pytest.mark.parametrize("samples", [texts(150), groups(60)], ids=["texts", "groups"])
@pytest.mark.parametrize("capacity", [40, 64, 150])
def test_packed_micro_batches_lose_no_sequence_and_keep_to_their_bounds(samples, capacity):
    chosen = range(3, len(samples))
    plan = pack_micro_batches(chosen, samples, token_budget=300, capacity=capacity)
    sequences, lengths = held(plan)
    assert sorted(sequences) == [(i, k) for i in chosen for k in range(len(samples[i].responses))]
    assert all(n <= max(capacity, max(s.longest for s in samples)) for n in lengths)
    assert all(count_padded_tokens(m.rows) <= 300 or len(m.samples) == 1 for m in plan)
    for micro_batch in plan:  # a sample is nowhere else: its comparisons need all its scores
        assert {doc.sample for row in micro_batch.rows for doc in row} == set(micro_batch.samples)
    again = pack_micro_batches(chosen, samples, token_budget=300, capacity=capacity)
    assert again == plan


def test_a_shared_prompt_is_once_in_a_row():
    plan = pack_micro_batches([0], [Sample(10, (3, 4, 5))], token_budget=99, capacity=22)
    assert held(plan) == ([(0, 0), (0, 1), (0, 2)], [22])
    halves = pack_micro_batches([0], [Sample(10, (3, 4, 5))], token_budget=99, capacity=19)
    assert held(halves)[1] == [19, 13]


def test_never_is_the_plan_of_length_sorted_rows():
    samples = texts(80)
    plan = plan_rows(range(80), samples, replace(RULES, packing="never"))
    expected = plan_micro_batches(range(80), [s.longest for s in samples], token_budget=200)
    assert [list(m.samples) for m in plan] == expected
    assert all(len(row) == 1 for m in plan for row in m.rows)


@pytest.mark.parametrize(
    ("samples", "padding_cost", "packs"),
    [
        ([Sample(0, (30,))] * 8, 1.0, False),  # no padding to save
        ([Sample(0, (60,)), *[Sample(0, (6,))] * 7], 1.0, True),
        ([Sample(0, (60,)), *[Sample(0, (6,))] * 7], 0.0, False),  # padding is taken out anyway
        ([Sample(50, (5, 5))] * 3, 0.0, True),  # two prompts become one
        ([Sample(1, (60, 60))] * 3, 0.0, False),  # and a short one is not worth it
    ],
)
def test_auto_packs_where_it_is_cheaper(samples, padding_cost, packs):
    rules = replace(RULES, longest_row=200, attention_width=4000, padding_cost=padding_cost)
    plan = plan_rows(range(len(samples)), samples, rules)
    is_packed = any(
        len(row) > 1 or len(doc.responses) > 1 for m in plan for row in m.rows for doc in row
    )
    assert is_packed == packs


def test_auto_costs_no_more_than_rows_apart():
    for seed in range(20):
        samples = groups(12, prompt=seed * 3, seed=seed)
        costs = [
            sum(rules.estimate_cost(m.rows) for m in plan_rows(range(12), samples, rules))
            for rules in (replace(RULES, packing=packing) for packing in ("auto", "never"))
        ]
        assert costs[0] <= 1.05 * costs[1]  # micro-batches cut what was packed whole


@pytest.mark.parametrize("packing", ["auto", "always", "never"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_rank_plans_equally_many_micro_batches_and_all_samples_once(packing, size):
    samples = groups(7)
    rules = replace(RULES, packing=packing, token_budget=60)
    plans = [plan_packed_step(range(7), samples, rules, rank=r, size=size) for r in range(size)]
    assert len({len(plan) for plan in plans}) == 1
    assert sorted(i for plan in plans for m in plan for i in m.samples) == list(range(7))
    few = [plan_packed_step([4], samples, rules, rank=r, size=2) for r in range(2)]
    assert NOTHING in few[1]
