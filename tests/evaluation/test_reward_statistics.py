"""What a reward model's report is made of, against values worked out by hand."""

from math import inf, log, sqrt

import numpy as np
import pytest

from training.data.encode import EncodedGroup
from training.data.records import Pair
from training.evaluation.reward_model import baselines, slices
from training.evaluation.reward_model.accuracy import compute_metrics, find_worst_pairs
from training.evaluation.reward_model.calibration import (
    bin_by_confidence,
    brier_score,
    compute_probability,
    expected_calibration_error,
    overconfidence,
)
from training.evaluation.reward_model.held_out_pairs import held_out_pairs
from training.evaluation.statistics import compute_proportion_interval, linearized_interval


def array(*values):
    return np.array(values, dtype=np.float64)


def pair_rows(count, tokens=((5,), (6,))):
    """Rows of one comparison each, every one with a prompt of its own."""
    sides = list(map(list, tokens))
    return [EncodedGroup([n], sides, (Pair(0, 1),), f"r{n}") for n in range(count)]


GROUPS = [
    EncodedGroup(
        [1],
        [[10], [11, 12], [13, 14, 15]],
        (
            Pair(0, 1, gap=2.0, votes=(("ann", 1.0), ("bob", 0.5))),
            Pair(1, 2, label=0.25, gap=-1.0, votes=(("ann", 0.25),)),  # turned round
            Pair(0, 2, label=0.5),  # a tie
        ),
        "r1",
    ),
    EncodedGroup([1], [[11, 12], [16]], (Pair(0, 1),), "r2"),  # the prompt and a response again
    EncodedGroup([2], [[10], [16]], (Pair(1, 0),), "r3"),  # as a response to another prompt
]


def test_held_out_pairs_as_columns():
    held = held_out_pairs(GROUPS)
    assert held.prompt.tolist() == [0, 0, 0, 0, 1, 1]
    assert held.tokens.tolist() == [1, 2, 3, 1, 1, 1]
    assert held.place == ((0, 0), (0, 1), (0, 2), (1, 1), (2, 0), (2, 1))
    assert held.better.tolist() == [0, 2, 0, 1, 5]
    assert held.worse.tolist() == [1, 1, 2, 3, 4]
    assert held.label.tolist() == [1.0, 0.75, 0.5, 1.0, 1.0]
    assert held.gap[:2].tolist() == [2.0, 1.0]
    assert np.isnan(held.gap[2:]).all()
    assert held.votes[:2] == ({"ann": 1.0, "bob": 0.5}, {"ann": 0.75})
    assert held.sources == ("r1", "r1", "r1", "r2", "r3")
    assert held.cluster.tolist() == [0, 0, 0, 0, 1]
    assert held.is_decided.tolist() == [True, True, False, True, True]
    assert held.length_difference.tolist() == [-1.0, 1.0, -2.0, 1.0, 0.0]
    scores = held.flat([[1.0, 2.0, 4.0], [2.0, 8.0], [16.0, 32.0]])
    assert scores.tolist() == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert held.difference(scores).tolist() == [-1.0, 2.0, -3.0, -6.0, 16.0]


def test_nothing_held_out_has_empty_columns():
    held = held_out_pairs([])
    assert len(held.better) == len(held.prompt) == len(held.cluster) == 0


# sigmoid(log 4) = 0.8, sigmoid(log 9) = 0.9
DIFFERENCE, LABEL = array(log(4), -log(4), log(9), 0.0), array(1.0, 0.75, 1.0, 1.0)


def test_reliability_by_hand():
    low, high = bin_by_confidence(DIFFERENCE, LABEL, bins=2)
    assert (low["low"], low["high"], low["pairs"]) == (0.5, 0.75, 1)
    assert (low["confidence"], low["agreement"]) == (0.5, 0.5)  # undecided: neither right nor wrong
    assert (high["low"], high["high"], high["pairs"]) == (0.75, 1.0, 3)
    assert high["confidence"] == pytest.approx((0.8 + 0.8 + 0.9) / 3)
    # The second prefers the side that a quarter of the people prefer.
    assert high["agreement"] == pytest.approx((1.0 + 0.25 + 1.0) / 3)
    assert expected_calibration_error([low, high]) == pytest.approx(0.75 * (2.5 - 2.25) / 3)


def test_a_bin_without_comparisons_is_left_out_and_certainty_is_in_the_last():
    (only,) = bin_by_confidence(array(500.0, -800.0), array(1.0, 0.0), bins=10)
    assert only == {"low": 0.95, "high": 1.0, "pairs": 2, "confidence": 1.0, "agreement": 1.0}


def test_the_calibration_error_weighs_bins_by_their_comparisons():
    keys = ("pairs", "confidence", "agreement")
    bins = [dict(zip(keys, row, strict=True)) for row in ((3, 0.55, 0.65), (1, 0.95, 0.65))]
    assert expected_calibration_error(bins) == pytest.approx(0.75 * 0.1 + 0.25 * 0.3)


def test_brier_score_and_overconfidence_by_hand():
    # Chances 0.8, 0.2, 0.9, 0.5 against labels 1, 0.75, 1, 1.
    assert brier_score(DIFFERENCE, LABEL) == pytest.approx((0.04 + 0.3025 + 0.01 + 0.25) / 4)
    assert brier_score(np.zeros(3), array(1.0, 0.0, 1.0)) == 0.25
    assert overconfidence(DIFFERENCE, LABEL).tolist() == pytest.approx([-0.2, 0.55, -0.1, 0.0])


def test_calibration_does_not_depend_on_the_side_that_a_comparison_names_first():
    assert brier_score(-DIFFERENCE, 1.0 - LABEL) == pytest.approx(brier_score(DIFFERENCE, LABEL))
    assert bin_by_confidence(-DIFFERENCE, 1.0 - LABEL) == bin_by_confidence(DIFFERENCE, LABEL)


def test_probability_has_no_overflow():
    assert compute_probability(array(-1e4, 0.0, log(3), 1e4)).tolist() == pytest.approx(
        [0, 0.5, 0.75, 1]
    )


def test_the_interval_of_a_ratio_by_hand():
    # Group sums of residuals are -0.5 and 0.5: sqrt(2 x 0.5) / 4 = 0.25.
    low, high = linearized_interval(array(1, 0, 1, 1), np.array([0, 0, 1, 1]))
    assert (low, high) == pytest.approx((0.75 - 0.25 * 1.959964, 0.75 + 0.25 * 1.959964), abs=1e-6)
    with pytest.raises(ValueError, match="one group"):
        linearized_interval(array(1, 0), np.array([3, 3]))


def test_linearised_and_resampled_intervals_agree_where_one_takes_over_from_the_other():
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), 3)
    values = (draw.random(1500) < np.repeat(draw.random(500), 3)).astype(float)
    resampled = compute_proportion_interval(values, groups, seed=0)
    assert resampled == pytest.approx(linearized_interval(values, groups), abs=0.004)
    more = np.append(groups, 500)  # 501 groups: linearised
    values = np.append(values, 1.0)
    assert compute_proportion_interval(values, more, seed=0) == linearized_interval(values, more)


def test_shares_of_single_outcomes_have_wilsons_interval():
    # z = 1.96, 8 of 10: centre (0.8 + 0.19207) / 1.38415, published as 0.490 to 0.943.
    low, high = compute_proportion_interval(array(*[1] * 8, 0, 0), np.arange(10), seed=0)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("value", "expected"), [(1.0, (0.4385, 1.0)), (0.0, (0.0, 0.5615))])
def test_groups_that_are_all_right_or_all_wrong_still_have_an_interval(value, expected):
    # Wilson's for 3 of 3: n / (n + z^2) = 3 / 6.84146.
    outcomes, groups = np.full(6, value), np.array([0, 0, 1, 1, 2, 2])
    assert compute_proportion_interval(outcomes, groups, seed=0) == pytest.approx(
        expected, abs=1e-4
    )


def test_one_group_alone_is_one_trial_of_wilsons():
    low, high = compute_proportion_interval(array(1, 1, 0, 1), np.zeros(4, dtype=int), seed=0)
    # (0.75 + 1.92073 -+ 1.959964 sqrt(0.1875 + 0.96036)) / 4.84146
    assert (low, high) == pytest.approx((0.1179, 0.9854), abs=1e-4)


def test_luck_on_single_comparisons_is_a_coin():
    held = held_out_pairs(pair_rows(400))
    scores = np.random.default_rng(1).normal(size=len(held.prompt))
    found = baselines.sample_chance_accuracies(held, scores, seed=0)
    assert found.mean() == pytest.approx(0.5, abs=0.004)
    assert found.std() == pytest.approx(sqrt(0.25 / 400), rel=0.08)


def test_luck_knows_that_comparisons_share_responses():
    pairs = tuple(Pair(i, j) for i in range(12) for j in range(i + 1, 12))
    rows = [EncodedGroup([n], [[k] for k in range(12)], pairs, f"r{n}") for n in range(20)]
    held = held_out_pairs(rows)
    scores = np.random.default_rng(2).normal(size=240)
    found = baselines.sample_chance_accuracies(held, scores, seed=0)
    # Kendall's tau of K independent ranks has variance 2 (2 K + 5) / (9 K (K - 1)); accuracy is
    # (1 + tau) / 2. A coin for each comparison would give 0.0138.
    assert found.std() == pytest.approx(sqrt(58 / 1188 / 4 / 20), rel=0.08)  # 0.0247
    apart = [EncodedGroup([n], [[i], [j]], (Pair(0, 1),), f"r{n}")
             for n in range(20) for i in range(12) for j in range(i + 1, 12)]  # fmt: skip
    same = baselines.sample_chance_accuracies(held_out_pairs(apart), scores, seed=0)
    assert same.std() == pytest.approx(found.std(), rel=0.08)  # in rows of their own as well


def test_scores_that_are_equal_within_each_prompt_have_no_luck():
    scores = np.repeat(np.arange(5.0), 2)  # dealt among prompts, they would differ
    assert (
        baselines.sample_chance_accuracies(held_out_pairs(pair_rows(5)), scores, seed=0).max()
        == 0.0
    )


def test_the_length_rule_is_learnt_from_what_training_comparisons_say():
    responses = [[1], [1, 2], [1, 2, 3], [4]]
    pairs = (
        Pair(1, 0),  # longer
        Pair(0, 2),  # shorter
        Pair(2, 1, label=0.2),  # shorter, by 4 of 5
        Pair(2, 0, label=0.5),  # a tie
        Pair(0, 3),  # equally long
    )
    rule = baselines.learn_length_rule([EncodedGroup([1], responses, pairs, "r")])
    assert rule.prefers == "shorter"
    assert rule.train_accuracy == pytest.approx(2 / 3)
    assert baselines.learn_length_rule([]) == baselines.LengthRule("longer", None)


def test_the_length_rule_is_judged_on_decided_comparisons_a_half_where_it_cannot_say():
    held = held_out_pairs(GROUPS)  # better minus worse: -1, 1, (a tie), 1, 0
    assert baselines.LengthRule("longer", None).outcomes(held).tolist() == [0.0, 1.0, 1.0, 0.5]
    assert baselines.LengthRule("shorter", None).outcomes(held).tolist() == [1.0, 0.0, 0.0, 0.5]


def test_length_correlation_by_hand():
    found = baselines.correlate_with_length(array(1, 2, -1), array(3, 0, 1))
    assert found == pytest.approx(2 / sqrt(6 * 10))
    assert baselines.correlate_with_length(array(-1, 2, -1), array(-3, 0, 1)) == pytest.approx(
        found
    )  # turned
    assert baselines.correlate_with_length(array(2, -4), array(1, -2)) == pytest.approx(1.0)
    assert baselines.correlate_with_length(array(0, 0), array(1, -2)) is None


def test_accuracy_by_bins():
    right, values = array(1, 0, 1, 1, 0, 1), array(-5.0, 0.0, 1.0, 2.0, np.nan, 3.0)
    found = slices.measure_accuracy_by(right, values, [-inf, 0.0, 1.0, 3.0], np.arange(6), seed=0)
    bins = [(part["low"], part["high"], part["pairs"], part["accuracy"]) for part in found]
    assert bins == [(None, 0.0, 1, 1.0), (0.0, 1.0, 1, 0.0), (1.0, 3.0, 3, 1.0)]
    assert found[2]["interval"] == pytest.approx([0.4385, 1.0], abs=1e-4)


def test_edges():
    assert slices.find_quantile_edges(array(1, 2, 3, 4, 5, np.nan)) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert slices.find_quantile_edges(array(0, 0, 0, 0, 8)) == [0.0, 8.0]
    assert slices.find_quantile_edges(array(3, 3)) == [3.0, 3.0]
    assert slices.find_quantile_edges(array(np.nan)) == []
    # Without equal lengths the absolute differences are 1, 4, 9: much is 4.
    assert slices.find_length_edges(array(0, 0, -1, 4, -9)) == [-inf, -3.5, -0.5, 0.5, 3.5, inf]
    assert slices.find_length_edges(array(0, 1)) == [-inf, -1.5, -0.5, 0.5, 1.5, inf]


def test_annotators_by_hand():
    def row(n, *pairs):
        return EncodedGroup([n], [[1], [2], [3]], pairs, f"r{n}")

    rows = [
        row(0, Pair(0, 1, votes=(("a", 1.0), ("b", 0.0), ("c", 0.5)))),
        row(1, Pair(1, 0, votes=(("a", 1.0),)), Pair(0, 1, votes=(("b", 1.0),))),  # one vote a pair
        row(2, Pair(0, 1, label=0.0, votes=(("a", 0.0),)), Pair(1, 2)),
    ]
    held = held_out_pairs(rows)
    # Of each prompt's responses the second scores highest, then the third.
    difference = held.difference(np.array([0.0, 2.0, 1.0] * 3))
    found = slices.measure_by_annotator(held, difference, seed=0)
    assert list(found) == ["a", "b"]  # c is undecided throughout
    a, b = found["a"], found["b"]
    assert (a["pairs"], a["accuracy"]) == (3, pytest.approx(2 / 3))  # wrong, right, right
    assert (b["pairs"], b["accuracy"]) == (2, 0.5)
    assert (a["others"]["pairs"], a["others"]["accuracy"]) == (2, 0.5)
    assert (b["others"]["pairs"], b["others"]["accuracy"]) == (3, pytest.approx(2 / 3))
    # On the first comparison a differs from b and from c, on the second from b.
    assert (a["agreement_with_others"], b["agreement_with_others"]) == (0.0, 0.0)


def test_the_worst_pairs_are_those_that_are_surest_of_what_people_are_sure_is_wrong():
    labels = (1.0, 1.0, 0.6, 1.0, 0.5, 1.0)
    rows = [EncodedGroup([n], [[1], [2]], (Pair(0, 1, label=label),), f"r{n}")
            for n, label in enumerate(labels)]  # fmt: skip
    # Divergences: log(1 + e^2) = 2.13 and log(1 + e^3) = 3.05; for label 0.6 and 3 the loss is
    # 0.6 x 3.049 + 0.4 x 0.049 = 1.85 less the entropy 0.67; the others are right, or a tie.
    held, difference = held_out_pairs(rows), array(-2, -3, -3, 5, -9, 0)
    found = find_worst_pairs(held, difference)
    assert [pair["source"] for pair in found] == ["r1", "r0", "r2"]
    assert (found[0]["better"], found[0]["worse"]) == ([1, 0], [1, 1])
    assert (found[0]["score_difference"], found[0]["label"]) == (-3.0, 1.0)
    assert [pair["source"] for pair in find_worst_pairs(held, difference, count=1)] == ["r1"]


def test_a_response_is_in_one_of_the_worst_pairs_only():
    rows = [EncodedGroup([1], [[1], [2], [3]], (Pair(0, 1), Pair(0, 2), Pair(1, 2)), "r")]
    held = held_out_pairs(rows)
    found = find_worst_pairs(held, held.difference(array(0.0, 4.0, 5.0)))  # -4, -5, -1
    assert [pair["score_difference"] for pair in found] == [-5.0]


def test_metrics_of_an_evaluation_tell_how_scores_move():
    held = held_out_pairs(pair_rows(4, tokens=((5,), (6, 7))))
    before, now = array(1, 0, 1, 0, 1, 0, 1, 0), array(3, 1, 3, 1, 3, 1, 1, 3)
    first = compute_metrics(held, before, None, seed=0)
    assert "score/eval_turned" not in first
    metrics = compute_metrics(held, now, before, seed=0)
    assert metrics["score/eval_mean"] == 2.0
    assert metrics["score/eval_std"] == 1.0
    assert metrics["score/eval_turned"] == 0.25
    assert metrics["score/eval_length_correlation"] == -0.5  # the shorter is higher in 3 of 4
    assert (metrics["accuracy/eval_low"], metrics["accuracy/eval_high"]) == pytest.approx(
        (0.3006, 0.9544), abs=1e-4
    )
    sure = 1 / (1 + np.exp(-2.0))
    assert metrics["calibration/overconfidence"] == pytest.approx(sure - 0.75)
    assert metrics["calibration/ece"] == pytest.approx(sure - 0.75)
    assert metrics["calibration/brier"] == pytest.approx(0.75 * (1 - sure) ** 2 + 0.25 * sure**2)
