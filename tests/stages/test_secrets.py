"""Tokens of the environment stay there: nothing that a run says or writes holds them."""

import sys
from typing import Any

import pytest

from tests.stages.processes import ROOT, started

CANARY = "c4n4ryc4n4ryc4n4ryc4n4ryc4n4ry42"
NAMES = ("LABEL_STUDIO_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")


@pytest.mark.slow
def test_a_run_writes_no_token(material, user_env, tmp_path):
    env = {**user_env, **dict.fromkeys(NAMES, CANARY)}
    out = tmp_path / "out"
    data = ["--data_path", material.file("reward"), "--eval_data_path"]
    sft = tmp_path / "sft"
    runs: list[tuple[str, list[Any]]] = [
        (
            "step1_sft",
            ["--model_name_or_path", material.base, "--data_path", material.file("sft"),
             "--output_dir", sft, "--max_steps", "1"],
        ),
        (
            "step2_reward",
            [*data, material.file("reward", "dev"), "--model_name_or_path", sft,
             "--output_dir", out, "--max_steps", "2", "--profile_step", "1",
             "--normalization_samples", "4", "--learning_rate", "1e-3"],
        ),
        (
            "step3_ppo",
            ["--data_path", material.file("ppo"), "--actor_model_name_or_path", sft,
             "--reward_model_name_or_path", out, "--output_dir", tmp_path / "ppo",
             "--max_steps", "1", "--save_every", "1", "--rollout_batch_size", "4",
             "--minibatch_size", "4", "--max_new_tokens", "4"],
        ),
    ]  # fmt: skip
    for program, flags in runs:
        command = [sys.executable, ROOT / program / "main.py", *flags]
        with started(command, tmp_path, env) as run:
            assert run.wait() == 0, run.errors.read_text()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert {"args.json", "metrics.jsonl", "report.html", "complete.json", "state.json"} <= names
    assert any(path.suffix == ".out" for path in written), "the log is looked through too"
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
