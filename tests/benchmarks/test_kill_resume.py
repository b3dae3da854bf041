"""Processes of a run are killed at random, and it ends as if it had been left alone."""

import ast
import json
import subprocess
import sys

import pytest

from benchmarks import phases
from benchmarks.kill_resume import list_differences
from training.paths import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("stage", "ranks", "kills"),
    [
        ("sft", 1, 2),
        pytest.param("ppo", 2, 5, marks=pytest.mark.full),
        pytest.param("reward", 2, 2, marks=pytest.mark.full),
    ],
)
def test_killed_runs_end_as_one_left_alone(tmp_path, stage, ranks, kills):
    file = tmp_path / "result.json"
    flags = ["--stage", stage, "--ranks", str(ranks), "--kills", str(kills), "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kill_resume", *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    result = json.loads(file.read_text())
    assert result["kills"] == kills
    assert result["mismatches"] == result["lost_runs"] == result["orphans"] == 0
    assert len(result["kills_by_phase"]) == kills, "each in another phase"


def test_a_missing_and_a_changed_file_differ(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "critic").mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text("{}\n")
        (tmp_path / name / "critic" / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "timing.jsonl").write_text(name)
    assert list_differences(tmp_path / "one", tmp_path / "other") == []
    (tmp_path / "one" / "metrics.jsonl").write_text("{}")
    (tmp_path / "one" / "critic" / "model.safetensors").unlink()
    assert list_differences(tmp_path / "one", tmp_path / "other") == [
        "critic/model.safetensors", "metrics.jsonl",
    ]  # fmt: skip


def test_phases_name_files_and_functions_that_exist():
    for file, function in [*phases.PHASES, (phases.WRITER, "")]:
        tree = ast.parse((REPOSITORY / "training" / file).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not function or function in names, (file, function)
