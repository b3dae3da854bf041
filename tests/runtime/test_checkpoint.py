import json
import os
import tempfile
from pathlib import Path

import pytest

from training.arguments.parsing import UserError
from training.runtime.checkpoint import check_complete, mark_complete, publish


def write_one(folder: Path) -> None:
    (folder / "backbone").mkdir()
    (folder / "backbone" / "weights").write_text("new")
    (folder / "config.json").write_text("new")


def test_publishing_replaces_files_and_keeps_what_is_not_the_models(tmp_path, alone):
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
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        publish(folder, fail, alone)
    assert (folder / "config.json").read_text() == "new"
    publish(folder, write_one, alone)  # what the failure left is in nobody's way
    assert "half" not in [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]


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
