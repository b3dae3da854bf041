"""Every file of a checkpoint damaged in every way; a full disk; a folder that cannot be written.

A small engine makes the checkpoints; each case is what the same command then does with them.
"""

import json
import logging
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from training.arguments.parsing import UserError
from training.arguments.sft import SFTArgs
from training.runtime.checkpoint_store import CheckpointStore, find_damage
from training.runtime.distributed import World
from training.runtime.resume import find_checkpoint
from training.runtime.saver import CheckpointSaver

CPU = torch.device("cpu")
ALONE = World(rank=0, size=1, device=CPU)
HARMS = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one byte flipped": lambda path: flip(path),
    "deleted": Path.unlink,
    "emptied": lambda path: os.truncate(path, 0),
}
FILES = ("actor.safetensors", "critic.safetensors", "state.json", "value.json", "manifest.json")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(content)


class Engine:
    """The part of an engine that `CheckpointSaver` uses, with plain AdamW."""

    zero_stage = 0

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(64, 64)
        self._optimizer = torch.optim.AdamW(self.module.parameters())
        self.module(torch.ones(1, 64)).sum().backward()
        self._optimizer.step()

    def list_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._optimizer]


@pytest.fixture
def args(tmp_path):
    return SFTArgs(output_dir=str(tmp_path / "out"), keep_best=1, keep_checkpoints=2)


def checkpoints_of(args):
    engines = {"actor": Engine(), "critic": Engine()}
    made = CheckpointSaver(args, ALONE, engines, find_checkpoint(args, ALONE))  # type: ignore[arg-type]
    made.register("log", lambda: {"files": {}})
    return made


@pytest.fixture
def saved(args):
    """Checkpoints of steps 1 and 2."""
    made = checkpoints_of(args)
    for step in (1, 2):
        made.record_evaluation({"loss/eval": 1.0 / step})
        assert made.save(step)
    return [Path(args.output_dir) / "checkpoints" / f"step_00000{step}" for step in (1, 2)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(args, saved, caplog, name, harm):
    assert {path.name for path in saved[1].iterdir()} == set(FILES)
    HARMS[harm](saved[1] / name)
    found = find_checkpoint(args, ALONE)
    assert found is not None
    assert (found.folder, found.step) == (saved[0], 1)
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert str(saved[1]) in warning
    # A flipped byte of the manifest may spoil another file's entry: then that one is named.
    assert name in warning or (name == "manifest.json" and any(file in warning for file in FILES))


def test_every_byte_of_a_manifest_is_checked(saved):
    """A flipped byte is noticed, unless the content is unchanged."""
    path = saved[1] / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        try:
            is_same = json.loads(path.read_bytes()) == json.loads(whole)
        except ValueError:
            is_same = False
        assert is_same or find_damage(saved[1]), place


def test_a_checkpoint_restores_what_was_saved(args, saved):
    made = checkpoints_of(args)
    actor = made._engines["actor"]
    expected = {name: value.clone() for name, value in actor.module.state_dict().items()}
    for parameter in actor.module.parameters():
        parameter.data.zero_()
    made.restore_engines()
    for name, value in actor.module.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_pickle_in_place_of_a_checkpoint_is_not_run(args, saved, tmp_path):
    """Even where somebody has put the manifest right for it."""

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    file = saved[1] / "actor.safetensors"
    torch.save(Bomb(), file)
    manifest = json.loads((saved[1] / "manifest.json").read_text())
    shutil.rmtree(saved[0])
    import hashlib

    content = file.read_bytes()
    manifest[file.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (saved[1] / "manifest.json").write_text(json.dumps(manifest))
    made = checkpoints_of(args)
    with pytest.raises(UserError, match=r"actor\.safetensors: .*; pass --resume none"):
        made.restore_engines()
    assert not (tmp_path / "exploded").exists()


def test_a_save_on_a_full_disk_fails_with_a_log_line(args, small_disk, caplog):
    args = replace(args, output_dir=str(small_disk / "out"))
    made = checkpoints_of(args)  # one takes 100 KiB
    assert [made.save(step) for step in (1, 2)] == [True, True]
    (small_disk / "filler").write_bytes(bytes(120_000))
    assert not made.save(3)
    assert "checkpoint of step 3 not saved" in caplog.text
    assert "No space left on device" in caplog.text
    assert [path.name for path in sorted((small_disk / "out" / "checkpoints").glob("[!l]*"))] == [
        "step_000001", "step_000002",
    ]  # fmt: skip
    assert CheckpointStore(args.output_dir, keep=2).find_newest()[1] == []
    (small_disk / "filler").unlink()
    shutil.rmtree(small_disk / "out" / "checkpoints" / "step_000001")
    assert made.save(4)


def test_a_save_to_an_unwritable_folder_fails_with_a_log_line(args, saved, caplog):
    root = Path(args.output_dir) / "checkpoints"
    hidden = root.rename(root.with_name("elsewhere"))
    root.write_text("")  # root may write anywhere, but not below a file
    made = CheckpointSaver(args, ALONE, {"actor": Engine()}, None)  # type: ignore[dict-item]
    assert not made.save(3)
    assert "checkpoint of step 3 not saved" in caplog.text
    root.unlink()
    hidden.rename(root)
    assert find_checkpoint(args, ALONE).folder == saved[1]  # type: ignore[union-attr]


def test_a_state_holds_all_flags(args, saved):
    state = json.loads((saved[1] / "state.json").read_text())
    assert state["settings"] == json.loads(json.dumps(asdict(args)))
