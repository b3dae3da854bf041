import json

import pytest

from training.evaluation.summary import build_table, compare_responses, format_table, list_warnings

BEFORE = ["plain words here now", "some more plain words", "a dull thing it is", "nothing to say"]
AFTER = ["good plain words here", "some good good words", "a dull thing again", "good to say it"]
GROUPS = ["a", "a", "b", "b"]


def count_good(texts):
    return [float(text.split().count("good")) for text in texts]


def count_words(texts):
    return [float(len(text.split())) for text in texts]


JUDGES = {"judge": count_good, "vader": count_words}


@pytest.fixture
def summary():
    return compare_responses(BEFORE, AFTER, GROUPS, JUDGES)


def healthy(**changes):
    """A summary without warnings, except for `changes`."""
    after = {"distinct2": 0.7, "length": 10.0, "duplicates": 0.01, **changes}
    base = {key: {"before": 0.9, "after": after[key]} for key in ("distinct2", "length")}
    judge = {"before": 0.0, "after": 1.0, "win_rate": changes.get("win_rate", 0.9)}
    return {
        "judge": judge | {"win_rate_ci": [0.8, 0.95]},
        **base,
        "length_unit": "words",
        "duplicates": {"before": 0.0, "after": after["duplicates"]},
        "kl": changes.get("kl", 6.0),
    }


def test_the_summary_has_means_and_paired_win_rates(summary):
    assert (summary["prompts"], summary["groups"]) == (4, 2)
    assert summary["judge"]["before"] == 0.0
    assert summary["judge"]["after"] == 1.0  # 1, 2, 0, 1
    assert summary["judge"]["win_rate"] == 0.875  # three wins and a tie
    assert summary["vader"]["win_rate"] == 0.5 + 0.5 * (1 - 1) / 4


def test_intervals_are_resampled_by_group(summary):
    low, high = summary["judge"]["win_rate_ci"]
    assert (low, high) == (0.75, 1.0)  # the means of the two groups


def test_a_text_compared_with_itself_is_a_draw():
    summary = compare_responses(BEFORE, BEFORE, GROUPS, JUDGES)
    assert summary["judge"]["win_rate"] == 0.5
    assert summary["judge"]["win_rate_ci"] == [0.5, 0.5]
    assert summary["distinct2"]["before"] == summary["distinct2"]["after"]


def test_judges_read_the_given_words_and_counts_do_not():
    seen: list[str] = []

    def listen(texts):
        seen.extend(texts)
        return [0.0] * len(texts)

    given = ["good start:", "good start:", "good start:", "good start:"]
    with_given = compare_responses(BEFORE, AFTER, GROUPS, {"judge": listen}, given=given)
    assert seen[0] == "good start:plain words here now"
    without = compare_responses(BEFORE, AFTER, GROUPS, JUDGES)
    for key in ("length", "distinct2", "duplicates"):
        assert with_given[key] == without[key]


def test_distinct_2_is_taken_over_equally_many_words():
    varied = [f"w{n} x{n} y{n}" for n in range(20)]
    repeating = ["same words again " * 5] * 20
    long = compare_responses(varied, repeating, [str(n) for n in range(20)], {})
    # Over the first 60 words: four texts of 15 words, each with 14 pairs, three of them distinct.
    assert long["distinct2"] == {"before": 1.0, "after": 3 / 56}


def test_best_of_n_is_compared_with_before_too():
    summary = compare_responses(BEFORE, AFTER, GROUPS, JUDGES, others={"best_of_4": AFTER})
    assert summary["best_of_4"]["win_rate"] == summary["judge"]["win_rate"]
    assert summary["best_of_4"]["judge"]["mean"] == summary["judge"]["after"]
    assert summary["best_of_4"]["vader"]["win_rate"] == summary["vader"]["win_rate"]
    assert summary["best_of_4"]["distinct2"] == summary["distinct2"]["after"]


def test_the_summary_is_plain_json(summary):
    assert json.loads(json.dumps(summary)) == summary


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="after has 3 entries for 4 prompts"):
        compare_responses(BEFORE, AFTER[:3], GROUPS, JUDGES)


def test_a_healthy_run_has_no_warnings():
    assert list_warnings(healthy(), 6.0) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kl": 18.1}, "18.1 nats"),
        ({"kl": float("nan")}, "nan nats"),
        ({"distinct2": 0.59}, "distinct-2 is 0.59"),
        ({"length": 6.9}, "6.9 words"),
        ({"duplicates": 0.06}, "6.0% are duplicates"),
    ],
)
def test_each_warning_casts_doubt_on_the_win_rate(changes, words):
    first, second = list_warnings(healthy(**changes), 6.0)
    assert words in first
    assert "over-optimisation" in second


@pytest.mark.parametrize(
    "changes", [{"kl": 18.0}, {"distinct2": 0.6}, {"length": 7.0}, {"duplicates": 0.05}]
)
def test_a_value_at_its_bound_is_allowed(changes):
    assert list_warnings(healthy(**changes), 6.0) == []


def test_a_losing_model_is_not_accused_of_over_optimisation():
    assert len(list_warnings(healthy(distinct2=0.1, win_rate=0.4), 6.0)) == 1


def test_without_a_target_there_is_no_warning_of_kl():
    assert list_warnings(healthy(kl=500.0), None) == []


def test_the_table_has_a_column_for_each_side():
    summary = compare_responses(BEFORE, AFTER, GROUPS, JUDGES, others={"best_of_4": AFTER})
    summary["kl"], summary["best_of_4"]["kl"] = 6.25, 0.64
    rows = {row[0]: row[1:] for row in build_table(summary)}
    assert rows[""] == ["SFT", "PPO", "best of 4"]
    assert rows["judge, mean"] == ["0.00", "1.00", "1.00"]
    assert rows["judge, win rate over SFT"][:2] == ["", "0.875 [0.750, 1.000]"]
    assert rows["KL to SFT, nats"] == ["0.0", "6.2", "0.6"]


def test_the_terminal_shows_accuracy_beside_the_human_ceiling(summary):
    summary["reward_model"] = {
        "accuracy": 0.69,
        "accuracy_ci": [0.67, 0.71],
        "human_ceiling": 0.801,
        "accuracy_gap1": 0.77,
        "accuracy_gap1_ci": [0.74, 0.8],
    }
    text = format_table(summary, labels=("start", "trained"))
    assert "all pairs: 0.690 [0.670, 0.710]; one human rater per side: 0.801" in text
    assert "at least one point apart: 0.770 [0.740, 0.800]\n" in text + "\n"
    assert "judge, win rate over start" in text


def test_columns_of_the_terminal_table_line_up(summary):
    head, rule, *lines = format_table(summary).splitlines()
    assert len(rule) == max(len(line) for line in [head, *lines])
    ends = [line.index("0.00") + 4 for line in lines if line.startswith("judge, mean")]
    assert head.index("SFT") + 3 == ends[0]


def test_chinese_is_measured_in_characters_with_another_bound():
    before = ["房间很大也很干净，服务很好"] * 4
    after = ["房间很好，服务也好。"] * 2 + ["价格便宜，速度快。"] * 2
    summary = compare_responses(before, after, GROUPS, {})
    assert summary["length_unit"] == "characters"
    assert summary["length"] == {"before": 12.0, "after": 7.5}
    assert ["characters", "12.0", "7.5"] in build_table(summary)
    assert "short: 7.5 characters on average, below 11" in " ".join(list_warnings(summary, None))
    assert not any("repeats itself" in warning for warning in list_warnings(summary, None))


@pytest.mark.parametrize(("unit", "share", "told"), [
    ("words", 0.55, True), ("characters", 0.55, False), ("characters", 0.45, True),
])  # fmt: skip
def test_pairs_of_characters_may_repeat_sooner_than_pairs_of_words(unit, share, told):
    warnings = list_warnings(healthy(distinct2=share, length=20.0) | {"length_unit": unit}, 6.0)
    assert any("repeats itself" in warning for warning in warnings) is told
