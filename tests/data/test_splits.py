import pytest

from training.arguments.parsing import UserError
from training.data.splits import split_by_prompt

RECORDS = [(f"prompt {n % 40}", n) for n in range(200)]


def split(records, fraction, seed=0):
    return split_by_prompt(records, lambda record: record[0], eval_fraction=fraction, seed=seed)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.99])
def test_no_prompt_is_on_both_sides_and_no_row_is_lost(fraction, seed):
    train, held_out = split(RECORDS, fraction, seed)
    assert train
    assert held_out
    assert not {prompt for prompt, _ in train} & {prompt for prompt, _ in held_out}
    assert sorted(train + held_out) == sorted(RECORDS)


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
