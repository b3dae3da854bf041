"""The process of a Slurm job's script: starts a stage's ranks by `srun`, and requeues the job.

python -m training.launching.slurm_job [launcher flags, passed over] PROGRAM [program flags]

A warning before the time limit (SIGUSR1 to this process alone) is handed to `srun`, which hands it
to every rank. On preemption Slurm signals the ranks itself; SIGTERM is never sent to `srun`, which
would end them before they have saved. A run that was asked to stop is requeued, and goes on from
its newest checkpoint, as long as it has come further each time or was preempted. It must not end
with status 0 meanwhile, as Slurm takes that for its end.
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
# Not --kill-on-bad-exit: it would end rank 0 where another one has left a second before, and hide
# the first one's status. A rank that hangs after another has died is ended after this time.
WAIT_SECONDS = 60
# A controller that is busy or restarts says one of these, and is asked again after these times.
SILENCE = re.compile("contact|timed out|zero bytes|refused|unexpected message", re.IGNORECASE)
PAUSES = (1.0, 5.0, 15.0, 30.0)


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
    # A requeued job's launch is the same: what it said then must not be taken for now.
    with suppress(OSError):
        (parse_output_folder(program) / "stopped.json").unlink()
    before = _progress(program)
    status, is_warned = _run(program, launch_id)
    if has_marker(program, "complete.json", launch_id):
        return 0
    job = _job()
    is_preempted = _is_preempted(job)
    is_stopped = status == STOPPED or has_marker(program, "stopped.json", launch_id)
    if is_warned or is_preempted or is_stopped:
        # Of a controller that does not answer: as if it ran.
        if (state := job.get("JobState", "RUNNING")) != "RUNNING":
            _say(f"stopped; the job is {state}, so it is left to Slurm")
            return STOPPED
        if not is_preempted and _progress(program) <= before:
            _say(f"error: stopped with status {status} and no further than before, so the job is "
                 "not requeued; if nothing above says why, give it a longer --time")  # fmt: skip
            return 1
        return _requeue()
    if status == 0:
        _say("error: srun reported success but the run did not finish; submit it again")
        return 1
    return status


def _run(program: list[str], launch_id: str) -> tuple[int, bool]:
    """One rank a task, to their end: the status, and whether the job was warned."""
    others = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment[LAUNCH_ID] = launch_id
    # Newer releases of srun do not take it over from sbatch.
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    # With sbatch's --export the tasks would not get what run.sh and this program have set.
    options = [f"--wait={WAIT_SECONDS}", "--kill-on-bad-exit=0", "--export=ALL"]
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
    return 128 - status if status < 0 else status, is_warned


def _requeue() -> int:
    done = _scontrol("requeue", _job_id())
    if done.returncode > 0:  # below 0 the requeue has ended this step, and scontrol with it
        _say(f"stopped, but not requeued: {done.stderr.strip()}; submit it again to go on")
    else:
        _say(f"stopped; job {_job_id()} is requeued and goes on from the newest checkpoint")
    return STOPPED


def _is_preempted(job: dict[str, str]) -> bool:
    """Whether Slurm wants this run's nodes for another job."""
    at = job.get("PreemptTime", "None")  # of the last time, as 2026-11-23T00:13:51
    return at not in ("None", "Unknown") and at >= job.get("StartTime", "")


def _job() -> dict[str, str]:
    """What Slurm says of this job; nothing where it does not answer."""
    said = _scontrol("--oneliner", "show", "job", _job_id()).stdout
    return dict(re.findall(r"(\w+)=(\S*)", said))


def _job_id() -> str:
    """Of a task of an array its own: the last one's number alone would mean the whole array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID", "") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _scontrol(*words: str) -> "subprocess.CompletedProcess[str]":
    """What `scontrol` says, asked for longer than a restart of its controller takes."""
    done = subprocess.run(["scontrol", *words], capture_output=True, text=True)
    for pause in PAUSES:
        if done.returncode <= 0 or not SILENCE.search(done.stderr):
            break
        time.sleep(pause)
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True)
    return done


def _progress(program: list[str]) -> set[tuple[Path, str]]:
    """How far the checkpoints of a run are, those of its parts included.

    Their names do not tell: one that is saved again at the same step has another.
    """
    found = set()
    for file in parse_output_folder(program).glob("**/checkpoints/step_*/state.json"):
        with suppress(OSError, ValueError, KeyError):  # it goes as another comes, or is damaged
            progress = json.loads(file.read_text(encoding="utf-8"))["progress"]
            progress.pop("log", None)  # it counts seconds
            found.add((file.parents[1], json.dumps(progress, sort_keys=True)))
    return found


def _array_index() -> str:
    return os.environ.get("SLURM_ARRAY_TASK_ID", "%a")


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _say(text: str) -> None:
    sys.stderr.write(f"slurm_job: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
