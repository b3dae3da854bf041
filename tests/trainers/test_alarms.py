"""Hand-made runs: each alarm is raised where it should be, names the flag to change, and once."""

import logging
import math

import pytest

from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.trainers.ppo.alarms import ALARMS, AlarmBell, detect_overoptimization

ARGS = PPOArgs(kl_target=2.0, kl_coef=0.05, score_clip=5.0)
HEALTHY = {
    "kl/ref": 1.0,
    "policy/entropy": 3.0,
    "response/eos_rate": 0.9,
    "response/length": 12.0,
    "score/clip_fraction": 0.0,
    "score/std": 1.0,
}


def series(name: str, values: list[float]) -> list[dict[str, float]]:
    return [{**HEALTHY, name: value} for value in values]


def ring(rows: list[dict[str, float]], args: PPOArgs = ARGS) -> list[set[str]]:
    """The names of the alarms that hold at each step."""
    bell = AlarmBell(args, None)
    return [
        {name.removeprefix("alarm/") for name in bell.check_step(step, row)}
        for step, row in enumerate(rows, start=1)
    ]


@pytest.mark.parametrize(
    ("alarm", "metric", "values", "first_step", "words"),
    [
        # KL: the mean of three steps over 3 x 2 nats: (2 + 8 + 8) / 3 is 6, no more than that.
        ("kl", "kl/ref", [0, 0, 0, 2, 8, 8, 9], 7, ["8.3 nats", "--kl_target 2", "--kl_coef"]),
        # Entropy: 3.0 at first; (0.8 + 0.8 + 0.8) / 3 is less than 0.9.
        ("entropy", "policy/entropy", [3, 3, 3, 2, 0.8, 0.8, 0.8], 7, ["3.00 to 0.80", "--actor"]),
        ("no_eos", "response/eos_rate", [0.5, 0.1, 0.0], 3, ["--max_new_tokens 40", "--missing"]),
        ("no_eos", "response/eos_rate", [0.0], 1, ["no response of the batch"]),
        # Length: 12 at first; over 24, or under 6.
        ("length", "response/length", [12, 12, 12, 24, 24, 24, 25], 7, ["12.0 to 24.3"]),
        ("length", "response/length", [12, 12, 12, 6, 6, 6, 5], 7, ["12.0 to 5.7", "--kl_coef"]),
        # Scores: half of them at the clip; a spread under 5 % of the first.
        ("scores", "score/clip_fraction", [0, 0, 0, 0.5, 0.5, 0.6], 6, ["53 %", "--score_clip 5"]),
        ("scores", "score/std", [1, 1, 1, 0.05, 0.05, 0.05, 0.04], 7, ["from 1 to 0.0467"]),
        ("scores", "score/std", [0.0, 0.0, 0.0], 1, ["nothing left to prefer", "--max_steps"]),
    ],
)
def test_an_alarm_is_raised_from_the_step_at_which_its_bound_is_passed(
    alarm, metric, values, first_step, words, caplog
):
    caplog.set_level(logging.INFO)
    held = ring(series(metric, values))
    assert [alarm in names for names in held].index(True) + 1 == first_step
    assert set().union(*held) == {alarm}
    message = next(record.getMessage() for record in caplog.records)
    assert message.startswith(f"warning: step {first_step}: alarm {alarm}: ")
    for word in words:
        assert word in message
    assert "\n" not in message


def test_a_healthy_run_raises_no_alarm():
    drifting = [
        {**HEALTHY, "kl/ref": step / 10, "policy/entropy": 3.0 - step / 30, "response/length": 8.0}
        for step in range(50)
    ]
    assert ring(drifting) == [set()] * 50


def test_the_kl_alarm_names_the_flag_of_the_controller_in_use():
    rows = series("kl/ref", [9.0] * 4)
    args = PPOArgs(kl_target=2.0, kl_controller="adaptive")
    text = ALARMS["kl"](rows, args)
    assert text is not None
    assert "--kl_horizon" in text
    assert "--kl_coef" not in text


def test_an_alarm_is_logged_once_and_again_after_a_quiet_time(caplog):
    caplog.set_level(logging.INFO)
    off, on = 0.9, 0.0
    values = [on, on, on, off, off, on] + [off] * 5 + [on]  # two quiet steps do not end it, five do
    bell = AlarmBell(ARGS, None)
    for step, row in enumerate(series("response/eos_rate", values), start=1):
        bell.check_step(step, row)
    logged = [record.getMessage().split(":")[1] for record in caplog.records]
    assert logged == [" step 1", " step 12"]
    assert bell.summarize() == ["alarm no_eos: raised at step 1, 12"]


def test_numbers_that_are_not_finite_raise_and_hide_no_alarm():
    nan = dict.fromkeys(HEALTHY, math.nan)
    rows = [*series("kl/ref", [1.0] * 3), nan, *series("kl/ref", [9.0] * 2), nan]
    assert ring(rows)[3] == set()
    assert ring(rows)[-1] == {"kl"}  # from the two finite ones


def evaluations(pairs: list[tuple[float, float]], error: float = 0.0) -> list[dict[str, float]]:
    return [
        {"eval/score/mean": score, "eval/judge/mean": judge, "eval/judge/error": error}
        for score, judge in pairs
    ]


@pytest.mark.parametrize(
    ("pairs", "error", "rings"),
    [
        ([(0.0, 1.0), (1.0, 2.0), (2.0, 1.5)], 0.0, True),  # from its best, not from its first
        ([(0.0, 1.0), (1.0, 2.0), (0.5, 1.5)], 0.0, False),  # the score fell with it
        ([(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)], 0.0, False),
        ([(0.0, 1.0), (1.0, 2.0), (2.0, 1.5)], 0.2, False),  # 0.5 is within 2 x 0.28
        ([(0.0, 1.0)], 0.0, False),
        ([], 0.0, False),
    ],
)
def test_a_judge_that_falls_while_the_score_rises_is_over_optimisation(pairs, error, rings):
    text = detect_overoptimization(evaluations(pairs, error), ARGS)
    assert (text is not None) == rings
    if text is not None:
        assert "from 2 to 1.5 while the score rose by 1" in text


def test_the_judge_scores_held_out_responses_and_reports_the_error_of_the_mean(caplog):
    caplog.set_level(logging.INFO)
    bell = AlarmBell(ARGS, lambda texts: [len(text) for text in texts])
    first = bell.check_evaluation(0, {"eval/score/mean": 0.0}, ["aaaa", "aaaaaa"])
    assert first == {"eval/judge/mean": 5.0, "eval/judge/error": pytest.approx(1 / 2**0.5)}
    second = bell.check_evaluation(9, {"eval/score/mean": 1.0}, ["a", "a"])
    assert second["alarm/judge"] == 1.0
    assert AlarmBell(ARGS, None).check_evaluation(0, {"eval/score/mean": 0.0}, ["a"]) == {}


def test_a_judge_that_fails_is_logged_and_the_run_continues(caplog):
    def judge(texts):
        raise UserError("--judge mine.py:3: 'score' returned nan")

    bell = AlarmBell(ARGS, judge)
    assert bell.check_evaluation(7, {"eval/score/mean": 0.0}, ["a"]) == {}
    assert caplog.messages == ["step 7: not judged: --judge mine.py:3: 'score' returned nan"]


def test_a_restored_bell_raises_what_one_that_never_stopped_would():
    rows = series("policy/entropy", [3, 3, 3, 1, 0.5, 0.5, 0.5, 0.5])
    whole, cut = AlarmBell(ARGS, None), AlarmBell(ARGS, None)
    expected = [whole.check_step(step, row) for step, row in enumerate(rows, start=1)]
    found = [cut.check_step(step, row) for step, row in enumerate(rows[:5], start=1)]
    resumed = AlarmBell(ARGS, None)
    resumed.load_state_dict(cut.state_dict())
    found += [resumed.check_step(step, row) for step, row in enumerate(rows[5:], start=6)]
    assert found == expected
    assert resumed.summarize() == whole.summarize()
