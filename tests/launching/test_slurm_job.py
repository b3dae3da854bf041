"""The end of a Slurm job after its step; `srun` and `scontrol` are fakes.

The same with a real Slurm is in tests/slurm/test_jobs.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNING = "JobState=RUNNING StartTime=2026-11-23T00:33:39"
PREEMPTED = f"{RUNNING} PreemptTime=2026-11-23T00:33:58"
PREEMPTED_BEFORE = f"{RUNNING} PreemptTime=2026-11-23T00:20:00"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path) -> Start:
    """Starts the process of job 7, whose `srun` is this line of shell."""

    def begin(
        srun: str, *, job: str = RUNNING, restarts: str = "0", scontrol: str = "", **environ: str
    ) -> "subprocess.Popen[str]":
        show = f'[ "$1" = requeue ] && echo "$2" > {tmp_path}/requeued || echo "{job}"'
        for name, line in (("srun", srun), ("scontrol", f"{scontrol}\n{show}")):
            (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
            (tmp_path / name).chmod(0o755)
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        env |= {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts} | environ
        command = [sys.executable, "-m", "training.launching.slurm_job", "--num_gpus", "2"]
        command += ["step1_sft/main.py", "--output_dir", str(tmp_path / "out")]
        (tmp_path / "out").mkdir(exist_ok=True)
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    return begin


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def is_requeued(folder: Path, job: str = "7") -> bool:
    marker = folder / "requeued"
    return marker.exists() and marker.read_text() == f"{job}\n"


def saves(folder: Path, name: str = "step_000004", step: int = 4) -> str:
    """A checkpoint, as a line of shell; its log's seconds differ each time."""
    checkpoint = f"{folder}/out/checkpoints/{name}"
    progress = f'{{"schedule": {{"step": {step}}}, "log": {{"seconds": \'$RANDOM\'}}}}'
    return f"mkdir -p {checkpoint}; echo '{{\"progress\": {progress}}}' > {checkpoint}/state.json"


def marker_line(folder: Path, name: str) -> str:
    return f"""echo '{json.dumps({"launch": "slurm-7"})}' > {folder}/out/{name}"""


@pytest.mark.parametrize(
    ("srun", "job", "status", "requeued"),
    [
        ("exit 75", RUNNING, 75, True),
        ("exit 75", "JobState=COMPLETING", 75, False),  # cancelled
        ("exit 143", PREEMPTED, 75, True),  # before its ranks could listen
        ("exit 143", PREEMPTED_BEFORE, 143, False),
        ("exit 2", RUNNING, 2, False),
        ("exit 137", RUNNING, 137, False),  # out of memory, say
        ("exit 0", RUNNING, 1, False),  # nothing says that the run is complete
    ],
)
def test_only_a_stopped_run_is_requeued(start, tmp_path, srun, job, status, requeued):
    assert ended(start(f"{saves(tmp_path)}; {srun}", job=job))[0] == status
    assert is_requeued(tmp_path) == requeued


def test_markers_count_before_the_status_of_srun(start, tmp_path):
    complete = marker_line(tmp_path, "complete.json")
    assert ended(start(f"{complete}; exit 137"))[0] == 0
    assert not is_requeued(tmp_path)


def test_a_rank_that_was_killed_after_the_run_was_saved_does_not_fail_the_job(start, tmp_path):
    stopped = f"{saves(tmp_path)}; {marker_line(tmp_path, 'stopped.json')}; exit 137"
    assert ended(start(stopped))[0] == 75
    assert is_requeued(tmp_path)


def test_a_marker_from_before_a_requeue_does_not_hide_a_failure(start, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stopped.json").write_text('{"launch": "slurm-7"}')
    assert ended(start(f"{saves(tmp_path)}; exit 2", restarts="1"))[0] == 2
    assert not is_requeued(tmp_path)


def test_a_preempted_run_is_requeued_without_a_new_checkpoint_too(start, tmp_path):
    assert ended(start("exit 75", job=PREEMPTED))[0] == 75
    assert is_requeued(tmp_path)


def test_a_run_stopped_without_progress_is_not_requeued(start, tmp_path):
    status, said = ended(start("exit 75"))
    assert status == 1
    assert "stopped with status 75 and no further than before" in said
    assert not is_requeued(tmp_path)


@pytest.mark.parametrize(("step", "status"), [(4, 1), (5, 75)])
def test_a_checkpoint_of_the_same_step_is_no_progress(start, tmp_path, step, status):
    subprocess.run(["bash", "-c", saves(tmp_path)], check=True)
    again = (
        f"rm -r {tmp_path}/out/checkpoints/step_000004; {saves(tmp_path, 'step_000004.2', step)}"
    )
    assert ended(start(f"{again}; exit 75"))[0] == status
    assert is_requeued(tmp_path) == (status == 75)


def test_a_permanent_refusal_of_slurm_is_not_retried(start, tmp_path):
    refuse = f'[ "$1" != requeue ] || {{ echo "$@" >> {tmp_path}/tries; echo "Job is not '
    refuse += 'requeueable" >&2; exit 1; }'
    status, said = ended(start(f"{saves(tmp_path)}; exit 75", scontrol=refuse))
    assert status == 75
    assert (tmp_path / "tries").read_text().count("\n") == 1
    assert "not requeued: Job is not requeueable; submit it again" in said


def test_a_cancelled_job_is_not_advised_a_longer_time(start):
    status, said = ended(start("exit 75", job="JobState=CANCELLED"))
    assert status == 75
    assert "the job is CANCELLED, so it is left to Slurm" in said
    assert "--time" not in said


def test_a_task_of_an_array_requeues_only_itself(start, tmp_path):
    process = start(
        f"{saves(tmp_path)}; exit 75",
        scontrol=f'echo "$@" >> {tmp_path}/asked',
        SLURM_ARRAY_JOB_ID="7",
        SLURM_ARRAY_TASK_ID="3",
    )
    assert ended(process)[0] == 75
    assert is_requeued(tmp_path, "7_3")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["--oneliner show job 7_3", "requeue 7_3"]


def test_a_controller_that_does_not_answer_is_retried(start, tmp_path):
    busy = f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) != 1 ] ||"
    busy += " { echo 'Unable to contact slurm controller' >&2; exit 1; }"
    assert ended(start(f"{saves(tmp_path)}; exit 75", scontrol=busy))[0] == 75
    assert is_requeued(tmp_path)


def test_srun_passes_all_variables_of_the_job_to_its_tasks(start, tmp_path):
    ended(start(f'echo "$@" > {tmp_path}/asked'))
    assert "--export=ALL" in (tmp_path / "asked").read_text().split()


def test_a_job_requeued_after_its_run_completed_does_not_start_again(start, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "complete.json").write_text('{"launch": "slurm-7"}')
    assert ended(start(f"touch {tmp_path}/started", restarts="1"))[0] == 0
    assert not (tmp_path / "started").exists()


def warned(process: "subprocess.Popen[str]", ready: Path) -> tuple[int, str]:
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)  # not for srun
    os.kill(process.pid, signal.SIGUSR1)
    return ended(process)


@pytest.mark.parametrize("has_progress", [True, False])
def test_a_warned_run_is_requeued_if_it_made_a_step(start, tmp_path, has_progress):
    save = saves(tmp_path) if has_progress else "true"
    wait = f"touch {tmp_path}/ready; while :; do sleep 0.02; done"
    process = start(f"save() {{ {save}; exit 75; }}; trap save USR1; trap 'exit 9' TERM; {wait}")
    status, said = warned(process, tmp_path / "ready")
    assert is_requeued(tmp_path) == has_progress
    assert status == (75 if has_progress else 1)
    assert ("give it a longer --time" in said) != has_progress
