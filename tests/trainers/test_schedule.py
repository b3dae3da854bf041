"""The share of a run that is done, by steps, and by the clock only where steps cannot be."""

import math

import pytest

from training.arguments.common import CommonArgs
from training.arguments.sft import SFTArgs
from training.trainers.schedule import Schedule, compute_step_lr_scale, lr_scale


@pytest.fixture
def schedule_of(alone, monkeypatch):
    """A schedule whose steps take the seconds that `run` is told; and the scales that it gave."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    class Timed(Schedule):
        def run(self, *seconds: float) -> list[float]:
            scales = []
            for spent in seconds:
                if self.is_done:
                    break
                scales.append(round(self.start_step(), 6))
                clock[0] += spent
                self.end_step()
                clock[0] += 100.0  # evaluation, which is not counted
            return scales

    def make(total_steps, max_seconds):
        args = SFTArgs(lr_scheduler="linear", warmup_ratio=0.0)
        return Timed(args, alone, total_steps=total_steps, max_seconds=max_seconds)

    return make


def test_a_bound_that_is_far_changes_nothing(schedule_of):
    free = schedule_of(4, 0.0).run(1.0, 1.0, 1.0, 1.0)
    assert free == [0.875, 0.625, 0.375, 0.125]
    assert schedule_of(4, 1000.0).run(1.0, 1.0, 1.0, 1.0) == free


def test_slow_first_steps_are_not_taken_for_the_pace(schedule_of):
    """The first ten of 40 steps take half of the time: those that follow are fast enough."""
    seconds = [5.0] * 10 + [1.0] * 30
    assert schedule_of(40, 100.0).run(*seconds) == schedule_of(40, 0.0).run(*seconds)


def test_a_pace_that_is_too_slow_ends_the_decay_within_the_bound(schedule_of):
    schedule = schedule_of(40, 20.0)  # 40 steps of one second would take 40
    scales = schedule.run(*[1.0] * 40)
    assert schedule.is_done
    assert len(scales) == 20
    assert scales[:11] == [round(1 - (step + 0.5) / 40, 6) for step in range(11)]
    # Eleven steps are done at 11 s; the other 29/40 of the decay take 9 s.
    left = 29 / 40
    assert scales[11:] == pytest.approx([left * (1 - (n + 0.5) / 9) for n in range(9)], abs=1e-6)


def test_a_single_step_may_take_all_the_time(schedule_of):
    schedule = schedule_of(3, 5.0)
    schedule.run(7.0)
    assert schedule.is_done


def test_that_the_clock_has_taken_over_is_part_of_a_checkpoint(schedule_of):
    whole = schedule_of(40, 20.0).run(*[1.0] * 40)
    first, second = schedule_of(40, 20.0), schedule_of(40, 20.0)
    before = first.run(*[1.0] * 15)
    second.load_state_dict(first.state_dict())
    assert second.step == 15
    assert before + second.run(*[1.0] * 25) == whole


def test_a_step_that_is_not_ended_is_not_counted(schedule_of):
    schedule = schedule_of(4, 0.0)
    schedule.run(1.0)
    schedule.start_step()
    assert schedule.state_dict()["step"] == 1
    assert schedule.run(1.0) == [0.625]


@pytest.mark.parametrize(
    ("progress", "scheduler", "expected"),
    [
        (0.0, "cosine", 0.0),
        (0.1, "cosine", 0.5),  # half-way up
        (0.2, "cosine", 1.0),
        (0.6, "cosine", 0.55),  # half-way between 1 and 0.1
        (0.4, "cosine", 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))),
        (1.0, "cosine", 0.1),
        (0.6, "linear", 0.55),
        (0.4, "linear", 0.775),
        (1.0, "linear", 0.1),
        (0.1, "constant", 0.5),
        (1.0, "constant", 1.0),
    ],
)
def test_the_rate_rises_then_decays_to_its_minimum(progress, scheduler, expected):
    found = lr_scale(progress, scheduler=scheduler, warmup_ratio=0.2, min_lr_ratio=0.1)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_a_warm_up_of_nothing_or_of_everything_has_no_gap(warmup):
    def scale(progress: float) -> float:
        return lr_scale(progress, scheduler="linear", warmup_ratio=warmup, min_lr_ratio=0.0)

    assert scale(0.0) == (1.0 if warmup == 0 else 0.0)
    assert scale(0.5) == pytest.approx(0.5)


def test_neither_the_first_nor_the_last_step_is_wasted():
    args = CommonArgs(warmup_ratio=0.5, lr_scheduler="linear")
    scales = [compute_step_lr_scale(args, step / 4, (step + 1) / 4) for step in range(4)]
    assert scales == pytest.approx([0.25, 0.75, 0.75, 0.25])
