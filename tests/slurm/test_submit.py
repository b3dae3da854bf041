"""Errors of the two commands before they call Slurm: one line, status 2."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.stages.processes import ROOT


@pytest.fixture
def path_without_slurm(tmp_path) -> str:
    for name in ("bash", "dirname", "realpath"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    return str(tmp_path)


def refused(script: str, words: str, path: str) -> str:
    command = ["bash", str(ROOT / "slurm" / script), *words.split()]
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "the first word is a stage, step1_sft, step2_reward or step3_ppo, got ''"),
        ("step4 --", "step1_sft, step2_reward or step3_ppo, got 'step4'"),
        ("step3_ppo --nodes 2", "-- must separate the options for sbatch from the flags"),
        ("step3_ppo --zero_stage 3 --", "--zero_stage is no option of sbatch: flags of the stage"),
        ("step3_ppo two --", "options for sbatch begin with -, got 'two'"),
        ("step3_ppo --nodes=2 3 --", "options for sbatch begin with -, got '3'"),
        ("step3_ppo --nodes 1-4 --", "--nodes takes a number, got '1-4'"),
        (
            "step3_ppo --gpus-per-node many --",
            "--gpus-per-node and --ntasks-per-node take a number",
        ),
        ("step3_ppo -N2 --gres=gpu:4 --", "--gres: give --gpus-per-node; each GPU gets a process"),
        ("step3_ppo --ntasks 4 --", "--ntasks: give --nodes and --ntasks-per-node"),
        ("step3_ppo --check some --", "--check takes full, flags or none, got 'some'"),
        ("step3_ppo --check", "-- must separate"),
        ("step3_ppo -N 2 --gpus-per-node=a100:4 -- --max_steps 9", "no sbatch on this machine"),
    ],
)
def test_a_mistake_in_submit(path_without_slurm, words, said):
    line = refused("submit.sh", words, path_without_slurm)
    assert line.startswith("slurm/submit.sh: error: ")
    assert said in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("step1_sft --array 0-3 -- --seed 1", "--array 0-3: its jobs would write to one folder"),
        ("step1_sft -- --dry_run", "--dry_run belongs before the --"),
        ("step1_sft -- --help", "--help: for the flags run bash step1_sft/run.sh --help"),
        ("step1_sft --chdir=/tmp --", "--chdir: submit from that folder instead"),
        ("step1_sft --gpus-per-node a:2,b:2 --", "takes GPUs of one type, got 'a:2,b:2'"),
    ],
)
def test_a_mistake_in_the_flags_of_the_stage(path_without_slurm, words, said):
    sbatch = Path(path_without_slurm) / "sbatch"
    sbatch.write_text("#!/bin/sh\nexit 1\n")
    sbatch.chmod(0o755)
    assert said in refused("submit.sh", words, path_without_slurm)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--nodes 2 -- step4 --max_steps 1",
            "or step1_sft, step2_reward or step3_ppo, got 'step4'",
        ),
        ("--array 0-3 --", "--array is for slurm/submit.sh"),
        ("--output_dir", "--output_dir needs a folder"),
        ("--check some --", "--check takes full, flags or none, got 'some'"),
        (
            "-- step1_sft --seed 1 -- step1_sft",
            "step1_sft is after two --; give its flags once",
        ),
        ("-- --output_dir out", "--output_dir belongs before the first --"),
    ],
)
def test_a_mistake_in_pipeline(path_without_slurm, words, said):
    line = refused("pipeline.sh", words, path_without_slurm)
    assert line.startswith("slurm/pipeline.sh: error: ")
    assert said in line


def test_a_pipeline_is_cancelled_if_one_stage_is_refused(tmp_path):
    """`sbatch` takes the first job and refuses the second; `scancel` records its arguments."""
    sbatch = f"""
        case "$*" in *--test-only*) exit ;; esac
        echo "$@" >> {tmp_path}/asked
        [ $(wc -l < {tmp_path}/asked) != 1 ] || {{ echo 41; exit; }}
        echo 'hint: ask the site' >&2; echo 'QOSMaxSubmitJobPerUserLimit' >&2; exit 1
    """
    for name, text in (("sbatch", sbatch), ("scancel", f'echo "$@" > {tmp_path}/cancelled')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "slurm" / "pipeline.sh"), "--check", "none", "--"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert (tmp_path / "cancelled").read_text() == "41\n"
    said = done.stderr.splitlines()[-2:]
    assert said == ["hint: ask the site", "slurm/submit.sh: error: QOSMaxSubmitJobPerUserLimit"]


def test_help_names_the_options():
    for script, last in (
        ("submit.sh", "nothing. Prints the job's number."),
        ("pipeline.sh", "checked. Prints the numbers of the three jobs."),
    ):
        done = subprocess.run(
            ["bash", ROOT / "slurm" / script, "--help"],
            env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0
        assert f"bash slurm/{script}" in done.stdout
        assert done.stdout.splitlines()[-1].startswith(last)
        assert "--dry_run" in done.stdout
        assert "set -euo" not in done.stdout
