"""A real Slurm of several nodes on this machine, and the records of its jobs."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.stages.processes import ROOT, wait_until

HERE = Path(__file__).parent
NOT_INSTALLED = 3  # status of start-local-slurm.sh
DONE = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
JOB_SECONDS = 480.0  # on a machine that is busy


class NotInstalledError(Exception):
    """This machine has no Slurm."""


@dataclass(frozen=True)
class Cluster:
    """`env` is a user's environment in which sbatch finds the cluster."""

    env: dict[str, str]
    folder: Path  # where jobs are submitted, and write what they print

    def run(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        command = ["nice", *map(str, words)]
        return subprocess.run(
            command,
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=JOB_SECONDS,
        )

    def script(self, name: str, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        return self.run("bash", ROOT / "slurm" / name, *words)

    def job(self, number: str) -> dict[str, str]:
        said = self.run("scontrol", "--oneliner", "show", "job", number).stdout
        return dict(re.findall(r"(\w+)=(\S*)", said))

    def state(self, number: str) -> str:
        return self.job(number).get("JobState", "")

    def ended(self, number: str) -> str:
        """Return the final state of a job, or its state after a long wait."""
        wait_until(lambda: self.state(number) in DONE, JOB_SECONDS)
        return self.state(number)

    def printed(self, stage: str, number: str) -> str:
        return (self.folder / f"{stage}-{number}.out").read_text()

    def start_again(self, number: str) -> None:
        """Do not wait the two minutes after which Slurm starts a requeued job.

        In the very second of the requeue it would still refuse the job's credential.
        """
        assert wait_until(lambda: self.state(number) == "PENDING", JOB_SECONDS), self.job(number)
        self.run("sleep", "2.5")
        done = self.run("scontrol", "update", f"jobid={number}", "starttime=now")
        assert done.returncode == 0, done.stderr


@contextmanager
def running(user: dict[str, str], folder: Path) -> Iterator[Cluster]:
    """Two nodes, stopped on the way out."""
    state = tempfile.mkdtemp(prefix="slurm-", dir="/tmp")  # its sockets need a short path
    try:
        started = subprocess.run(
            ["bash", HERE / "start-local-slurm.sh", state, "2"], capture_output=True, text=True
        )
        if started.returncode == NOT_INSTALLED:
            raise NotInstalledError(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        # Where pytest is itself a job of another cluster, its variables mean that one.
        own = {name: value for name, value in user.items() if not name.startswith("SLURM")}
        yield Cluster(own | {"SLURM_CONF": f"{state}/slurm.conf"}, folder)
    finally:
        environ = {**os.environ, "SLURM_CONF": f"{state}/slurm.conf"}
        subprocess.run(["bash", HERE / "stop-local-slurm.sh", state, "--purge"], env=environ)
        shutil.rmtree(state, ignore_errors=True)
