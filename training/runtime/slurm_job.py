"""The process of a Slurm job's script: starts a stage's ranks by `srun`, and requeues the job.

python -m training.runtime.slurm_job [launcher flags, passed over] PROGRAM [program flags]

A warning before the time limit (SIGUSR1 to this process alone) is handed to `srun`, which hands it
to every rank. On preemption Slurm signals the ranks itself; SIGTERM is never sent to `srun`, which
would end them before they have saved. A run that was asked to stop is requeued, and goes on from
its newest checkpoint. It must not end with status 0 meanwhile, as Slurm takes that for its end.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from training.runtime.launch import LAUNCH_ID, has_marker, output_folder, split_words
from training.runtime.stopping import STOPPED

WARNING = signal.SIGUSR1  # as stage.sbatch asks of Slurm
# Not --kill-on-bad-exit: it would end rank 0 where another one has left a second before, and hide
# the first one's status. A rank that hangs after another has died is ended after this time.
WAIT_SECONDS = 60


def main() -> int:
    words = split_words(sys.argv[1:])[1]
    if not words or "SLURM_JOB_ID" not in os.environ:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    program = [word.replace("%a", _array_index()) for word in words]
    launch_id = f"slurm-{os.environ['SLURM_JOB_ID']}"
    if _restarts() and has_marker(program, "complete.json", launch_id):
        _say("the run was complete before this job was requeued")
        return 0
    before = _checkpoints(program)
    ended = _run(program, launch_id)
    if has_marker(program, "complete.json", launch_id):
        return 0
    if ended.is_asked or ended.status == STOPPED or has_marker(program, "stopped.json", launch_id):
        if ended.is_warned and _checkpoints(program) == before:
            _say("error: no step was done within the time limit; give the job a longer --time")
            return 1
        return _requeue()
    if ended.status == 0:
        _say("error: srun reported success but the run did not finish; submit it again")
        return 1
    return ended.status


class _Ended:
    """How a step ended; `is_asked`: Slurm has asked it to."""

    def __init__(self, status: int, *, is_warned: bool) -> None:
        self.status = status
        self.is_warned = is_warned
        self.is_asked = is_warned or _is_preempted()


def _run(program: list[str], launch_id: str) -> _Ended:
    """One rank a task, to their end."""
    others = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment[LAUNCH_ID] = launch_id
    # Newer releases of srun do not take it over from sbatch.
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    options = [f"--wait={WAIT_SECONDS}", "--kill-on-bad-exit=0"]
    options += [f"--cpus-per-task={cores}"] if cores else []
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
    return _Ended(128 - status if status < 0 else status, is_warned=is_warned)


def _requeue() -> int:
    """Put the job back into the queue, unless it was cancelled or Slurm has done so."""
    job = os.environ["SLURM_JOB_ID"]
    state = _job().get("JobState", "")
    if state != "RUNNING":
        _say(f"stopped; the job is {state or 'gone'} and is not requeued by itself")
    else:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if done.returncode > 0:  # below 0 the requeue has ended this step, and scontrol with it
            _say(f"stopped, but not requeued: {done.stderr.strip()}; submit it again to go on")
        else:
            _say(f"stopped; job {job} is requeued and goes on from the newest checkpoint")
    return STOPPED


def _is_preempted() -> bool:
    """Whether Slurm wants this run's nodes for another job."""
    job = _job()
    at = job.get("PreemptTime", "None")  # of the last time, as 2026-11-23T00:13:51
    return at not in ("None", "Unknown") and at >= job.get("StartTime", "")


def _job() -> dict[str, str]:
    """What Slurm says of this job; nothing where it does not answer."""
    command = ["scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    return dict(re.findall(r"(\w+)=(\S*)", said))


def _checkpoints(program: list[str]) -> set[Path]:
    """The checkpoints of a run, those of its parts included."""
    return set(output_folder(program).glob("**/checkpoints/step_*"))


def _array_index() -> str:
    return os.environ.get("SLURM_ARRAY_TASK_ID", "%a")


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _say(text: str) -> None:
    sys.stderr.write(f"slurm_job: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
