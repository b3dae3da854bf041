import logging
from pathlib import Path

import pytest
import torch

from training.arguments.parsing import GuardStop
from training.arguments.sft import SFTArgs
from training.runtime.distributed import World
from training.runtime.metrics import MetricLogger
from training.trainers.fit import Kept, _keep_if_best
from training.trainers.guards import Fault, Guard, Readings, SkipStep, TooManySkips
from training.trainers.schedule import Schedule

WORLD = World(rank=0, size=1, device=torch.device("cpu"))


def guarded(limit: int) -> tuple[Guard, Schedule]:
    args = SFTArgs(max_skipped_steps=limit, warmup_ratio=0.0, lr_scheduler="linear")
    schedule = Schedule(args, WORLD, total_steps=4)
    return Guard(args, schedule), schedule


def bad(lr_scale: float) -> float:
    raise SkipStep(Fault("loss"))


def test_a_skipped_step_gives_its_learning_rate_to_the_next():
    guard, schedule = guarded(2)
    # A line from 1 to 0 over four steps, read half-way: 7/8, 5/8, 3/8, 1/8.
    made = [guard.step("step", work) for work in (float, bad, float, bad, float, float)]
    assert made == [0.875, None, 0.625, None, 0.375, 0.125]
    assert schedule.is_done
    assert guard.metrics == {"guard/skipped_steps": 2.0}


def test_the_run_stops_after_more_skipped_steps_in_a_row_than_allowed(caplog):
    caplog.set_level(logging.INFO)
    guard, schedule = guarded(2)
    guard.step("step 1", bad)
    guard.step("step 1", float)  # a step that is made restarts the count
    guard.step("step 2", bad)
    guard.step("step 2", bad)
    with pytest.raises(TooManySkips, match=r"step 2: loss is not finite; 3 .*_steps 2") as stop:
        guard.step("step 2", bad)
    assert stop.value.weights_are_finite
    assert schedule.step == 1
    logged = [record.getMessage() for record in caplog.records]
    assert logged[-1].endswith("no optimizer step is made (2 in a row of at most 2)")


def test_a_lost_weight_stops_the_run_at_once():
    guard, _ = guarded(5)
    with pytest.raises(TooManySkips, match="no later step can") as stop:
        guard.skip("step 1", Fault("weight w of the actor", is_weight=True))
    assert not stop.value.weights_are_finite


def test_a_restored_guard_continues_its_count():
    guard, _ = guarded(1)
    guard.step("step 1", bad)
    other, _ = guarded(1)
    other.load_state_dict(guard.state_dict())
    with pytest.raises(TooManySkips):
        other.step("step 1", bad)


def test_the_earliest_bad_reading_is_named_with_its_rows():
    readings = Readings()
    nan, inf = float("nan"), float("inf")
    readings.add("score", torch.tensor([0.5, 1.0]), lambda: ["a.jsonl:1", "a.jsonl:2"])
    readings.add("log-prob", torch.tensor([0.0, nan]), lambda: ["b", "c"])
    readings.add("value", torch.tensor([inf]), lambda: ["d"])
    readings.add("log-prob", torch.tensor([-inf, 1.0]), lambda: ["a", "e"])
    fault = readings.fault(WORLD)
    assert str(fault) == "log-prob of a, c is not finite"
    assert Readings().fault(WORLD) is None


def test_a_rank_without_readings_names_the_same_fault(monkeypatch):
    other = (["score", "loss"], {"loss": ["b"], "score": ["a"]})
    monkeypatch.setattr(World, "gather", lambda self, own: [own, other])
    assert str(Readings().fault(WORLD)) == "score of a is not finite"


def test_a_model_without_a_finite_loss_is_not_published(tmp_path):
    args = SFTArgs(output_dir=str(tmp_path / "out"))
    schedule = Schedule(args, WORLD, total_steps=4)
    saved: list[Path] = []
    with (
        MetricLogger(args, WORLD, total_steps=4) as log,
        pytest.raises(GuardStop, match="after step 0 the loss of the held-out data is nan"),
    ):
        _keep_if_best(args, schedule, log, Kept(), {"loss/eval": float("nan")}, list, saved.append)
    assert saved == []


def test_many_rows_are_counted_not_listed():
    rows = [f"row {index}" for index in range(12)]
    text = str(Fault("score", rows))
    assert text == f"score of {', '.join(rows[:8])} and 4 more is not finite"
