"""Checkpoints are whole or not there; a damaged one is named and the one before is taken."""

import json
import os
from pathlib import Path

import pytest

from training.runtime.checkpoint_store import CheckpointStore, find_damage

CONTENT = {"state.json": b'{"step": 3}', "actor.safetensors": bytes(range(256)) * 9}


def write(folder: Path) -> None:
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path, keep=2)


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def test_what_is_saved_is_found_and_whole(store, tmp_path):
    assert store.find_newest()[0] is None
    folder = store.save(3, write)
    assert folder == tmp_path / "checkpoints" / "step_000003"
    assert (folder / "actor.safetensors").read_bytes() == CONTENT["actor.safetensors"]
    assert store.find_newest()[0] == folder
    assert find_damage(folder) == ""
    assert names(tmp_path) == ["latest", "step_000003"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_000003\n"


def test_the_newest_two_are_kept_by_step_not_by_name(store, tmp_path):
    for step in (999_999, 1_000_000, 1_000_001):
        store.save(step, write)
    assert names(tmp_path) == ["latest", "step_1000000", "step_1000001"]
    assert store.find_newest()[0] == tmp_path / "checkpoints" / "step_1000001"


def test_the_best_are_kept_besides_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep=1, keep_best=2)
    values = {10: 3.0, 20: 1.0, 30: None, 40: 2.0, 50: 5.0}
    for step, value in values.items():
        store.save(step, write, value)
    assert names(tmp_path) == ["latest", "step_000020", "step_000040", "step_000050"]
    assert [store.is_among_best(value) for value in (0.5, 1.5, 2.0, 2.5)] == [
        True, True, False, False,
    ]  # fmt: skip
    assert not CheckpointStore(tmp_path, keep=1).is_among_best(0.0)


def test_the_best_stays_where_its_step_is_saved_again_without_a_value(tmp_path):
    store = CheckpointStore(tmp_path, keep=1, keep_best=1)
    store.save(10, write, 0.1)
    store.save(10, write)
    store.save(20, write, 5.0)
    assert names(tmp_path) == ["latest", "step_000010", "step_000020"]


def test_values_of_another_metric_are_not_compared(tmp_path):
    CheckpointStore(tmp_path, keep=1, keep_best=1, metric="loss/eval").save(10, write, 0.5)
    store = CheckpointStore(tmp_path, keep=1, keep_best=1, metric="+accuracy/eval")
    assert store.is_among_best(0.7)
    store.save(20, write, 0.7)
    store.save(30, write)
    assert names(tmp_path) == ["latest", "step_000020", "step_000030"]


def test_saving_a_step_again_keeps_the_first_until_the_second_is_whole(store, tmp_path):
    first = store.save(3, write)

    def look(folder: Path) -> None:
        write(folder)
        assert find_damage(first) == ""

    second = store.save(3, look)
    assert second.name == "step_000003.2"
    assert store.find_newest()[0] == second
    assert names(tmp_path) == ["latest", "step_000003.2"]
    store.save(4, write)
    assert store.find_newest()[0] == tmp_path / "checkpoints" / "step_000004"
    assert names(tmp_path) == ["latest", "step_000003.2", "step_000004"]


def test_saving_an_earlier_step_removes_stale_later_steps(store, tmp_path):
    store.save(10, write)
    store.save(20, write)
    store.save(15, write)
    assert names(tmp_path) == ["latest", "step_000010", "step_000015"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def delete(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("name", [*CONTENT, "manifest.json"])
@pytest.mark.parametrize("harm", [truncate, flip, delete, empty])
def test_any_damage_to_any_file_is_noticed_and_the_one_before_is_used(store, name, harm):
    before, newest = store.save(1, write), store.save(2, write)
    if name == "manifest.json" and harm is truncate:
        harm(newest / name)  # the newline at its end; nothing is lost yet
        assert store.find_newest()[0] == newest
    harm(newest / name)
    checkpoint, [problem] = store.find_newest()
    assert checkpoint == before
    assert str(newest) in problem
    assert name in problem or name == "manifest.json"


def test_a_manifest_that_names_files_outside_is_refused(store, tmp_path):
    folder = store.save(1, write)
    (tmp_path / "secret").write_bytes(b"")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["../../secret"] = {"bytes": 0, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "outside" in find_damage(folder)


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", '{"a": 1}', '{"a": {"bytes": "x"}}'])
def test_a_manifest_of_another_shape_counts_as_damage(store, manifest):
    folder = store.save(1, write)
    (folder / "manifest.json").write_text(manifest)
    assert "manifest.json" in find_damage(folder)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_older_checkpoints_and_nothing_half_written(store, tmp_path, error):
    before = store.save(1, write)

    def fails(folder: Path) -> None:
        write(folder)
        raise error

    with pytest.raises(type(error)):
        store.save(2, fails)
    assert store.find_newest()[0] == before
    assert names(tmp_path) == ["latest", "step_000001"]


def test_what_a_killed_save_left_is_never_read_and_is_removed(store, tmp_path):
    remains = tmp_path / "checkpoints" / ".step_000005.writing"
    remains.mkdir(parents=True)
    write(remains)
    assert store.find_newest()[0] is None
    store.save(6, write)
    assert not remains.exists()


def test_every_byte_is_synced_before_the_rename(store, monkeypatch):
    order = []
    sync, replace = os.fsync, os.replace

    def noted_sync(handle: int) -> None:
        order.append("sync")
        sync(handle)

    def noted_replace(source: Path, target: Path) -> None:
        order.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    store.save(1, write)
    assert order == ["sync"] * 3 + [
        "manifest.json",
        "sync",
        "step_000001",
        "sync",
        "sync",
        "latest",
    ]
