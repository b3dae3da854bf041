"""Run in a Slurm job's script: start a stage's ranks by `srun`, and requeue the job.

python -m training.launching.slurm_job [ignored launcher flags] PROGRAM [program flags]

Slurm warns this process by SIGUSR1 before the time limit; `srun` forwards the warning to every
rank. On preemption Slurm signals the ranks itself. SIGTERM is never sent to `srun`: it would end
the ranks before they have saved. A stopped run is requeued and resumes from its newest checkpoint,
if it made progress or was preempted. Until it is complete the exit status must not be 0, which
Slurm takes for success.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from training.launching.launch import LAUNCH_ID, has_marker, parse_output_folder, split_words
from training.launching.stopping import STOPPED

WARNING = signal.SIGUSR1  # as stage.sbatch asks of Slurm
# Without --kill-on-bad-exit, which would end rank 0 if another rank exits a second earlier, and
# hide the status of the first. Ranks that hang after another has died are ended after this time.
WAIT_SECONDS = 60
# Errors of a controller that is busy or restarts, and the seconds before each retry.
SILENCE = re.compile("contact|timed out|zero bytes|refused|unexpected message", re.IGNORECASE)
PAUSES = (1.0, 5.0, 15.0, 30.0)


def main() -> int:
    words = split_words(sys.argv[1:])[1]
    if not words or "SLURM_JOB_ID" not in os.environ:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    index = os.environ.get("SLURM_ARRAY_TASK_ID", "%a")
    program = [word.replace("%a", index) for word in words]
    launch_id = f"slurm-{os.environ['SLURM_JOB_ID']}"
    is_requeued = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    if is_requeued and has_marker(program, "complete.json", launch_id):
        _print("the run was complete before this job was requeued")
        return 0
    # A requeued job has the same launch id, so its earlier marker would count.
    with suppress(OSError):
        (parse_output_folder(program) / "stopped.json").unlink()
    before = _read_progress(program)
    status, is_warned = _run(program, launch_id)
    if has_marker(program, "complete.json", launch_id):
        return 0
    record = _run_scontrol("--oneliner", "show", "job", _find_job_id()).stdout
    job: dict[str, str] = dict(re.findall(r"(\w+)=(\S*)", record))  # {} without an answer
    preempted_at = job.get("PreemptTime", "None")  # the last time, as 2026-11-23T00:13:51
    is_preempted = preempted_at not in ("None", "Unknown") and preempted_at >= job.get(
        "StartTime", ""
    )
    is_stopped = status == STOPPED or has_marker(program, "stopped.json", launch_id)
    if is_warned or is_preempted or is_stopped:
        # Without an answer of the controller, assume that the job runs.
        if (state := job.get("JobState", "RUNNING")) != "RUNNING":
            _print(f"stopped; the job is {state}, so it is left to Slurm")
            return STOPPED
        if not is_preempted and _read_progress(program) <= before:
            _print(f"error: stopped with status {status} and no further than before, so the job is "
                   "not requeued; if nothing above says why, give it a longer --time")  # fmt: skip
            return 1
        return _requeue()
    if status == 0:
        _print("error: srun reported success but the run did not finish; submit it again")
        return 1
    return status


def _run(program: list[str], launch_id: str) -> tuple[int, bool]:
    """Run one rank per task. Return srun's status, and True if the job was warned."""
    others = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment[LAUNCH_ID] = launch_id
    # --export=ALL: an --export of sbatch would hide what run.sh and this program have set.
    options = [f"--wait={WAIT_SECONDS}", "--kill-on-bad-exit=0", "--export=ALL"]
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):  # newer releases of srun do not inherit it
        options.append(f"--cpus-per-task={cores}")
    is_warned = False
    srun: subprocess.Popen[bytes] | None = None

    def warn(*_: object) -> None:
        nonlocal is_warned
        if srun is not None and not is_warned:
            srun.send_signal(WARNING)
        is_warned = True

    signal.signal(WARNING, warn)
    signal.signal(signal.SIGTERM, lambda *_: None)  # the ranks get it too
    srun = subprocess.Popen(["srun", *options, sys.executable, "-u", *program], env=environment)
    if is_warned:
        srun.send_signal(WARNING)
    status = srun.wait()
    return 128 - status if status < 0 else status, is_warned


def _requeue() -> int:
    done = _run_scontrol("requeue", _find_job_id())
    if done.returncode > 0:  # below 0 the requeue has ended this step, and scontrol with it
        _print(f"stopped, but not requeued: {done.stderr.strip()}; submit it again to resume")
    else:
        _print(f"stopped; job {_find_job_id()} is requeued and resumes from the newest checkpoint")
    return STOPPED


def _find_job_id() -> str:
    """Return ARRAY_TASK for a task: SLURM_JOB_ID of an array's last task means the whole array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID", "") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _run_scontrol(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run `scontrol`, with retries for longer than a restart of the controller takes."""
    for pause in (0.0, *PAUSES):
        time.sleep(pause)
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True)
        if done.returncode <= 0 or not SILENCE.search(done.stderr):
            break
    return done


def _read_progress(program: list[str]) -> set[tuple[Path, str]]:
    """Return the progress of a run's checkpoints, those of its parts included.

    Their names do not show it: a checkpoint saved again at the same step has another name.
    """
    states = set()
    for file in parse_output_folder(program).glob("**/checkpoints/step_*/state.json"):
        with suppress(OSError, ValueError, KeyError):  # removed meanwhile, or damaged
            progress = json.loads(file.read_text(encoding="utf-8"))["progress"]
            progress.pop("log", None)  # it counts seconds
            states.add((file.parents[1], json.dumps(progress, sort_keys=True)))
    return states


def _print(text: str) -> None:
    sys.stderr.write(f"slurm_job: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
