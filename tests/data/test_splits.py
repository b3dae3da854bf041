import random

import numpy as np
import pytest

from training.arguments.parsing import UserError
from training.data.contamination import hash_prompt
from training.data.dataset import choose_held_out, repeat_by_weight

RECORDS = [(f"prompt {n % 40}", n) for n in range(200)]


def split(records, fraction, seed=0):
    keys = np.array([hash_prompt(prompt) for prompt, _ in records], np.uint64)
    is_held = choose_held_out(keys, eval_fraction=fraction, seed=seed).tolist()
    pairs = list(zip(records, is_held, strict=True))
    return [r for r, held in pairs if not held], [r for r, held in pairs if held]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.99])
def test_no_prompt_is_on_both_sides_and_no_row_is_lost(fraction, seed):
    train, held = split(RECORDS, fraction, seed)
    assert train
    assert held
    assert not {prompt for prompt, _ in train} & {prompt for prompt, _ in held}
    assert sorted(train + held) == sorted(RECORDS)


def test_rows_keep_their_order():
    for side in split(RECORDS, 0.3):
        assert side == sorted(side, key=lambda record: record[1])


def test_about_the_asked_share_of_prompts_is_held_out():
    records = [(f"{n}", n) for n in range(5000)]
    assert 0.08 < len(split(records, 0.1)[1]) / 5000 < 0.12


def test_a_prompt_keeps_its_side_when_rows_are_added():
    _, before = split(RECORDS[:100], 0.3)
    _, after = split([("new", -1), *RECORDS], 0.3)
    assert {p for p, _ in before} - {p for p, _ in after} == set()


def test_the_seed_decides_who_is_held_out():
    assert split(RECORDS, 0.3, seed=1) == split(RECORDS, 0.3, seed=1)
    assert split(RECORDS, 0.3, seed=1) != split(RECORDS, 0.3, seed=2)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_one_prompt_alone_stays_in_training(fraction):
    records = [("only", 1), ("only", 2)]
    assert split(records, fraction) == (records, [])


def test_a_fraction_of_zero_holds_nothing_out():
    assert split(RECORDS, 0.0) == (RECORDS, [])


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(UserError, match="--eval_fraction"):
        split(RECORDS, fraction)


def test_prompts_that_differ_in_case_and_space_stay_together():
    train, held = split([(f"What is  {n % 20} ?" if n < 20 else f"what IS {n % 20} ?", n)
                         for n in range(40)], 0.4)  # fmt: skip
    assert not {n % 20 for _, n in train} & {n % 20 for _, n in held}


@pytest.mark.parametrize(("weight", "count"), [(1, 10), (2, 20), (0.5, 5), (2.3, 23), (0.01, 1)])
def test_a_weight_multiplies_the_number_of_rows(weight, count):
    places = repeat_by_weight(10, weight, random.Random(0)).tolist()
    assert len(places) == count
    times = [places.count(n) for n in range(10)]
    assert max(times) - min(times) <= 1


def test_the_seed_decides_which_half_is_taken():
    half = repeat_by_weight(100, 0.5, random.Random(1)).tolist()
    assert half == repeat_by_weight(100, 0.5, random.Random(1)).tolist() == sorted(set(half))
    assert half != repeat_by_weight(100, 0.5, random.Random(2)).tolist()


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight):
    with pytest.raises(UserError, match="--data_weights must be positive"):
        repeat_by_weight(10, weight, random.Random(0))
