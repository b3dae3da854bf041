"""The checkpoint that a run resumes from, and the errors if it may not."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.arguments.sft import SFTArgs
from training.runtime.checkpoint_store import CheckpointStore
from training.runtime.resume import WHOLE, compute_input_fingerprints, find_checkpoint


@pytest.fixture
def args(tmp_path):
    return CommonArgs(output_dir=str(tmp_path / "out"), warmup_ratio=0.1)


def found_by(args, world):
    found = find_checkpoint(args, world)
    assert found is not None
    return found


@pytest.fixture
def save(args):
    """Saves checkpoints that hold nothing but what `find_checkpoint` reads."""

    def at(step, ranks=1, origin="", output_dir=args.output_dir):
        state = {"step": step, "progress": {"kl_coef": 0.5}, "settings": asdict(args)}
        state["origin"] = origin
        text = json.dumps(
            {**state, "world_size": ranks, "inputs": compute_input_fingerprints(args)}
        )
        store = CheckpointStore(output_dir, keep=2)

        def write(folder: Path) -> None:
            (folder / "state.json").write_text(text)

        return store.save(step, write)

    return at


def test_a_run_without_a_checkpoint_starts_from_scratch(args, alone):
    assert find_checkpoint(args, alone) is None


def test_the_newest_checkpoint_is_used(args, alone, save):
    save(3)
    folder = save(6)
    found = found_by(args, alone)
    assert (found.folder, found.step, found.progress) == (folder, 6, {"kl_coef": 0.5})


def test_resume_none_and_a_finished_run_start_from_scratch(args, alone, save, tmp_path):
    save(3)
    assert find_checkpoint(replace(args, resume="none"), alone) is None
    (tmp_path / "out" / "complete.json").write_text("{}")
    assert find_checkpoint(args, alone) is None


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(args, alone, save, caplog):
    before, newest = save(3), save(6)
    (newest / "state.json").write_text("")
    assert found_by(args, alone).folder == before
    assert str(newest) in caplog.text
    assert "state.json" in caplog.text


def test_if_every_checkpoint_is_damaged_the_run_does_not_start_from_scratch(args, alone, save):
    (save(3) / "state.json").unlink()
    with pytest.raises(UserError, match=r"no checkpoint is whole .*--resume none"):
        find_checkpoint(args, alone)


@pytest.mark.parametrize("where", ["checkpoint", "output_dir"])
def test_a_path_names_a_checkpoint_or_a_run(args, alone, save, tmp_path, where):
    save(3)
    path = {"checkpoint": save(6), "output_dir": tmp_path / "out"}[where]
    other = replace(args, output_dir=str(tmp_path / "other"), resume=str(path))
    assert found_by(other, alone).step == 6


def test_the_same_command_with_a_path_resumes_its_own_run(args, alone, save, tmp_path):
    first = save(3)
    other = replace(args, output_dir=str(tmp_path / "other"), resume=str(first))
    found = found_by(other, alone)
    assert (found.folder, found.origin) == (first, str(first))
    later = save(6, origin=found.origin, output_dir=other.output_dir)
    assert found_by(other, alone).folder == later
    assert found_by(replace(other, resume="auto"), alone).origin == str(first)
    # A run that began elsewhere, or that is finished, is not resumed.
    assert found_by(replace(other, resume=str(tmp_path / "out")), alone).folder == first
    (tmp_path / "other" / "complete.json").write_text("{}")
    assert found_by(other, alone).folder == first


def test_a_path_that_is_no_checkpoint_is_refused(args, alone, tmp_path):
    with pytest.raises(UserError, match=r"--resume .*neither a run's output_dir"):
        find_checkpoint(replace(args, resume=str(tmp_path)), alone)


def test_a_named_checkpoint_that_is_damaged_is_refused(args, alone, save):
    folder = save(3)
    (folder / "state.json").write_text("")
    with pytest.raises(UserError, match=r"--resume .*step_000003.*state\.json"):
        find_checkpoint(replace(args, resume=str(folder)), alone)


def test_a_changed_flag_is_named_and_needs_consent(args, alone, save, caplog):
    save(3)
    changed = replace(args, warmup_ratio=0.2, lora_rank=4, log_every=77)
    with pytest.raises(UserError) as raised:
        find_checkpoint(changed, alone)
    message = str(raised.value)
    assert "--warmup_ratio 0.1 -> 0.2" in message
    assert "--lora_rank 0 -> 4" in message
    assert "--allow_changed_settings" in message
    assert "log_every" not in message
    assert found_by(replace(changed, allow_changed_settings=True), alone).step == 3
    assert "--warmup_ratio 0.1 -> 0.2" in caplog.text


def test_another_layout_needs_no_consent_and_is_logged_in_one_line(args, alone, save, caplog):
    save(3, ranks=2)
    caplog.clear()
    other = replace(args, zero_stage=3, offload_optimizer=True)
    assert found_by(other, alone).world_size == 2
    said = [record.getMessage() for record in caplog.records if "layout" in record.getMessage()]
    assert said == [
        "resuming in another layout: ranks 2 -> 1, --zero_stage 2 -> 3, "
        "--offload_optimizer false -> true; the same run within rounding, not to the last bit"
    ]


def test_in_another_layout_a_changed_flag_still_needs_consent(args, alone, save):
    save(3, ranks=2)
    other = replace(args, zero_stage=3, micro_batch_tokens=17)
    with pytest.raises(UserError, match=r"settings: --micro_batch_tokens 4096 -> 17;"):
        find_checkpoint(other, alone)


@pytest.mark.parametrize(
    ("dropout", "holds"), [(0.0, "within rounding"), (-1.0, "drawn differently")]
)
def test_with_dropout_another_layout_is_not_the_same_run(tmp_path, alone, caplog, dropout, holds):
    args = SFTArgs(output_dir=str(tmp_path / "out"), dropout=dropout)
    state = {"step": 3, "progress": {}, "settings": asdict(args), "world_size": 2}
    state |= {"inputs": compute_input_fingerprints(args), "origin": ""}

    def write(folder: Path) -> None:
        (folder / "state.json").write_text(json.dumps(state))

    CheckpointStore(args.output_dir, keep=2).save(3, write)
    assert found_by(args, alone).step == 3
    assert "ranks 2 -> 1; the same" in caplog.text
    assert holds in caplog.text


def test_data_with_other_content_are_a_changed_setting(args, alone, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("first\n")
    args = replace(args, data_path=[str(rows)], keep_checkpoints=7)
    state = {"step": 3, "progress": {}, "settings": asdict(args), "world_size": 1}
    state |= {"inputs": compute_input_fingerprints(args), "origin": ""}

    def write(folder: Path) -> None:
        (folder / "state.json").write_text(json.dumps(state))

    CheckpointStore(args.output_dir, keep=2).save(3, write)
    assert found_by(args, alone).step == 3
    rows.write_text("other\n")
    with pytest.raises(UserError, match=r"--data_path .*rows\.jsonl.* has other content"):
        find_checkpoint(args, alone)


def test_the_fingerprint_covers_every_file_of_a_data_folder(tmp_path):
    args = CommonArgs(output_dir=str(tmp_path / "out"), data_path=[str(tmp_path)])
    assert compute_input_fingerprints(args) == {}
    seen = []
    for name in ("train.txt", "train.tsv", "dev.ndjson"):
        (tmp_path / name).write_text("first\n")
        seen.append(compute_input_fingerprints(args)["data_path"])
    assert len(set(seen)) == 3


def test_the_fingerprint_of_a_model_covers_weights_but_not_logs(tmp_path):
    args = PPOArgs(actor_model_name_or_path=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    before = compute_input_fingerprints(args)
    assert before.keys() == {"actor_model_name_or_path"}
    (tmp_path / "metrics.jsonl").write_text("{}")
    (tmp_path / "complete.json").write_text("{}")
    assert compute_input_fingerprints(args) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert compute_input_fingerprints(args) != before


def test_the_fingerprint_of_a_large_file_covers_its_ends_and_samples(tmp_path):
    large = tmp_path / "large.safetensors"
    with large.open("wb") as file:
        file.truncate(WHOLE + 5)
    args = PPOArgs(actor_model_name_or_path=str(tmp_path))
    seen = {compute_input_fingerprints(args)["actor_model_name_or_path"]}
    for place in (0, WHOLE + 4):
        with large.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        seen.add(compute_input_fingerprints(args)["actor_model_name_or_path"])
    assert len(seen) == 3
