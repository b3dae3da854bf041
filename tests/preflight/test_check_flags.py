"""Flags and data of a stage are checked before its models exist."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("stage", "words", "said"),
    [
        ("step2_reward", ["--data_path", "{folder}/good.jsonl"], ""),
        ("step3_ppo", ["--eval_data_path", "{folder}/gone.jsonl", "--data_path", "{folder}"],
         "gone.jsonl: no such file or folder"),
        ("step3_ppo", ["--data_path", "{folder}/bad.jsonl"], "bad.jsonl:1"),
        ("step2_reward", ["--learning_rat", "1"], "did you mean --learning_rate?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_any_model_is_there(tmp_path, stage, words, said):
    for name, text in (("good", '{"prompt": "a"}'), ("train", '{"prompt": "a"}'), ("bad", "{")):
        (tmp_path / f"{name}.jsonl").write_text(f"{text}\n")
    main = str(ROOT / stage / "main.py")
    flags = [word.format(folder=tmp_path) for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "training.preflight.check_flags", "--num_gpus", "2", main, *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (2 if said else 0), done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
