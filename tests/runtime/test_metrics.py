import contextlib
import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.arguments.common import CommonArgs
from training.runtime.distributed import World
from training.runtime.metrics import MetricLogger, write_json
from training.runtime.resume import Checkpoint


@pytest.fixture
def args(tmp_path):
    return CommonArgs(output_dir=str(tmp_path / "out"), log_every=3)


def rows(folder: Path, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_step_is_one_row_and_non_finite_values_are_null(args, alone, tmp_path):
    with MetricLogger(args, alone, total_steps=2) as log:
        log.log(1, {"loss": 2.5, "norm": math.nan})
        log.log(2, {"loss": math.inf, "norm": 1.0})
    found = rows(tmp_path / "out", "metrics.jsonl")
    assert [(row["step"], row["loss"], row["norm"]) for row in found] == [
        (1, 2.5, None),
        (2, None, 1.0),
    ]


def test_rows_are_in_the_file_during_the_run(args, alone, tmp_path):
    with MetricLogger(args, alone, total_steps=2) as log:
        log.log(1, {"loss": 1.0})
        log.log_samples(1, [{"prompt": "Où ?"}])
        assert len(rows(tmp_path / "out", "metrics.jsonl")) == 1
        assert rows(tmp_path / "out", "samples.jsonl") == [{"step": 1, "prompt": "Où ?"}]


def test_timings_are_in_a_file_of_their_own(args, alone, tmp_path):
    with MetricLogger(args, alone, total_steps=1) as log:
        log.log(1, {"loss": 2.5, "time/step_s": 0.1, "speed/tokens_per_s": 9.0})
    assert rows(tmp_path / "out", "metrics.jsonl") == [{"step": 1, "loss": 2.5}]
    [timing] = rows(tmp_path / "out", "timing.jsonl")
    assert timing.keys() == {"step", "time", "time/step_s", "speed/tokens_per_s"}


@pytest.fixture
def interrupted(args, alone, tmp_path):
    """A run that logged two steps, was saved after the first, and its checkpoint."""
    with MetricLogger(args, alone, total_steps=3) as log:
        log.log(1, {"loss": 3.0})
        log.log_samples(1, [{"prompt": "Où ?"}])
        progress = {"log": log.state_dict()}
        log.log(2, {"loss": 2.0})
        log.log_samples(2, [{"prompt": "lost"}])
    folder = tmp_path / "out" / "checkpoints" / "step_000001"
    folder.mkdir(parents=True)
    return Checkpoint(folder=folder, step=1, progress=progress, world_size=1)


def test_a_resumed_run_truncates_its_files_and_appends(args, alone, tmp_path, interrupted):
    with MetricLogger(args, alone, total_steps=3, checkpoint=interrupted) as log:
        log.log(2, {"loss": 2.5})
        log.log_samples(2, [{"prompt": "again"}])
    out = tmp_path / "out"
    assert [row["loss"] for row in rows(out, "metrics.jsonl")] == [3.0, 2.5]
    assert [row["prompt"] for row in rows(out, "samples.jsonl")] == ["Où ?", "again"]
    seconds = [float(str(row["time"])) for row in rows(out, "timing.jsonl")]
    assert seconds == sorted(seconds)
    assert interrupted.folder.is_dir()
    board = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(1, 3.0), (2, 2.5)]


def test_a_run_resumed_in_another_folder_copies_earlier_rows(args, alone, tmp_path, interrupted):
    there = replace(args, output_dir=str(tmp_path / "there"))
    with MetricLogger(there, alone, total_steps=3, checkpoint=interrupted) as log:
        log.log(2, {"loss": 2.5})
    assert [row["loss"] for row in rows(tmp_path / "there", "metrics.jsonl")] == [3.0, 2.5]
    assert [row["loss"] for row in rows(tmp_path / "out", "metrics.jsonl")] == [3.0, 2.0]


def test_a_run_from_scratch_removes_checkpoints_of_an_earlier_run(
    args, alone, tmp_path, interrupted
):
    with MetricLogger(args, alone, total_steps=3) as log:
        log.log(1, {"loss": 9.0})
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert [row["loss"] for row in rows(tmp_path / "out", "metrics.jsonl")] == [9.0]


def test_a_line_is_printed_for_the_first_the_last_and_every_third_step(args, alone, caplog):
    caplog.set_level(logging.INFO)
    with MetricLogger(args, alone, total_steps=7) as log:
        for step in range(1, 8):
            log.log(step, {"loss/train": float(step)})
        log.log(5, {"loss/eval": 0.5}, always_show=True)
    shown = [message.split("  left")[0] for message in caplog.messages]
    assert shown == [
        "step 1/7  loss/train 1",
        "step 3/7  loss/train 3",
        "step 6/7  loss/train 6",
        "step 7/7  loss/train 7",
        "step 5/7  loss/eval 0.5",
    ]


def test_a_new_run_removes_the_marker_of_an_earlier_run(args, alone, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "complete.json").write_text("{}")
    with MetricLogger(args, alone, total_steps=1):
        assert not (tmp_path / "out" / "complete.json").exists()


def test_other_ranks_write_and_log_nothing(args, alone, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    second = World(rank=1, size=2, device=alone.device)
    with MetricLogger(args, second, total_steps=1) as log:
        log.log(1, {"loss/train": 1.0}, always_show=True)
        log.log_samples(1, [{"prompt": "a"}])
    write_json(second, tmp_path / "report.json", {})
    assert list(tmp_path.iterdir()) == []
    assert caplog.messages == []


def test_only_adapters_of_an_earlier_run_are_removed(args, alone, tmp_path):
    out = tmp_path / "out"
    ours = [out / "adapter", out / "last" / "adapter", out / "critic" / "adapter"]
    others = [out / "step1_sft" / "adapter", out / "src" / "adapter"]
    for folder in [*ours, *others]:
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
    with MetricLogger(args, alone, total_steps=1):
        pass
    assert not any(folder.exists() for folder in ours)
    assert all(folder.exists() for folder in others)


def test_resuming_keeps_adapters_and_removes_later_checkpoints(args, alone, tmp_path, interrupted):
    out = tmp_path / "out"
    (out / "adapter").mkdir()
    (out / "adapter" / "adapter_config.json").write_text("{}")
    ahead = out / "checkpoints" / "step_000002"
    ahead.mkdir()
    with MetricLogger(args, alone, total_steps=3, checkpoint=interrupted):
        pass
    assert (out / "adapter" / "adapter_config.json").exists()
    assert interrupted.folder.is_dir()
    assert not ahead.exists(), "files were cut back behind it"


# TensorBoard's own thread ends so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_on_a_full_disk_lines_wait_for_room_and_the_run_continues(args, alone, small_disk, caplog):
    args = replace(args, output_dir=str(small_disk / "out"))
    with MetricLogger(args, alone, total_steps=3) as log:
        log.log(1, {"loss": 3.0})
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            for _ in range(500):
                file.write(bytes(1000))
        for step in range(2, 200):
            log.log(step, {"loss": 2.0, "a long name " * 9: 1.0})
        log.state_dict()
        filler.unlink()
        log.log(200, {"loss": 1.0})
        sizes = log.state_dict()["files"]
    found = rows(small_disk / "out", "metrics.jsonl")
    assert [row["step"] for row in found] == list(range(1, 201))
    assert sizes["metrics.jsonl"] == (small_disk / "out" / "metrics.jsonl").stat().st_size
    said = [text for text in caplog.messages if "metrics.jsonl" in text]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert any("TensorBoard" in text for text in caplog.messages)
