import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import training.runtime.publish as publish_module
from training.arguments.parsing import UserError
from training.runtime.publish import check_complete, mark_complete, publish


def write_one(folder: Path) -> None:
    (folder / "backbone").mkdir()
    (folder / "backbone" / "weights").write_text("new")
    (folder / "config.json").write_text("new")


def test_publishing_replaces_the_models_files_and_keeps_others(tmp_path, alone):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    (folder / "metrics.jsonl").write_text("kept")
    publish(folder, write_one, alone)
    found = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
    assert found == {"backbone/weights": "new", "config.json": "new", "metrics.jsonl": "kept"}
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.glob(".*")), "the place to write aside is left"


def test_a_write_that_fails_leaves_the_old_model_whole(tmp_path, alone):
    folder = tmp_path / "out"
    publish(folder, write_one, alone)

    def fail(staging: Path) -> None:
        (staging / "config.json").write_text("half")
        raise PermissionError(13, "Permission denied")

    with pytest.raises(UserError, match=r"out: .* Permission denied; .*run the same command"):
        publish(folder, fail, alone)
    assert (folder / "config.json").read_text() == "new"
    assert not (folder / ".writing").exists()
    publish(folder, write_one, alone)  # what the failure left is in nobody's way
    assert "half" not in [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]


def test_on_a_full_disk_the_model_waits_for_room(small_disk, alone, monkeypatch, caplog):
    filler = small_disk / "filler"

    def write(staging: Path) -> None:
        save_file({"weight": torch.ones(30_000)}, staging / "model.safetensors")

    def sleep(seconds: float) -> None:
        assert not (small_disk / "out" / ".writing").exists(), "half a model takes room as well"
        filler.unlink()

    monkeypatch.setattr("training.runtime.publish.time.sleep", sleep)
    filler.write_bytes(bytes(350_000))
    publish(small_disk / "out", write, alone)
    weights = small_disk / "out" / "model.safetensors"
    assert torch.equal(load_file(weights)["weight"], torch.ones(30_000))
    assert len(caplog.messages) == 1
    assert "no room for the model" in caplog.messages[0]
    filler.write_bytes(bytes(250_000))
    monkeypatch.setattr(publish_module, "ROOM_SECONDS", -1.0)
    with pytest.raises(UserError, match=r"make room, .* the same command"):
        publish(small_disk / "out", write, alone)
    assert torch.equal(load_file(weights)["weight"], torch.ones(30_000))


def test_published_files_have_the_permissions_of_the_umask(tmp_path, alone):
    publish(tmp_path, lambda to: save_file({"w": torch.ones(1)}, to / "model.safetensors"), alone)
    (tmp_path / "plain").touch()
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("model.safetensors", "plain")]
    assert modes[0] == modes[1]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_a_folder_on_another_file_system_than_its_parent_can_be_published_to(tmp_path, alone):
    """A mounted volume, or a link to a scratch disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as volume:
        if os.stat(volume).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("no second file system")
        (tmp_path / "out").symlink_to(volume)
        publish(tmp_path / "out", write_one, alone)
        assert (Path(volume) / "config.json").read_text() == "new"


def test_only_rank_0_writes(tmp_path, alone):
    class Second(type(alone)):  # type: ignore[misc]
        def barrier(self) -> None:
            pass

    second = Second(rank=1, size=2, device=alone.device)
    publish(tmp_path / "out", write_one, second)
    mark_complete(str(tmp_path), second)
    assert list(tmp_path.iterdir()) == []


def test_the_marker_names_the_launch(tmp_path, alone, monkeypatch):
    monkeypatch.setenv("CLASSIC_RLHF_LAUNCH", "this one")
    mark_complete(str(tmp_path), alone)
    assert json.loads((tmp_path / "complete.json").read_text())["launch"] == "this one"
    assert [file.name for file in tmp_path.iterdir()] == ["complete.json"]


def test_a_folder_is_unfinished_if_a_stage_began_it_and_did_not_end(tmp_path):
    def check() -> None:
        check_complete(str(tmp_path), flag="--model", hint="run it")

    check()  # somebody's own model folder
    (tmp_path / "args.json").write_text("{}")
    with pytest.raises(UserError, match=r"--model: .* has not finished; run it"):
        check()
    (tmp_path / "complete.json").write_text("{}")
    check()
