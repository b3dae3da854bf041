"""Starts programs as a user would, and finds whatever they leave running."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "STAGE_TEST_PROCESS"  # environment variable that a program and all its children carry
LAUNCH_SECONDS = 300  # for a whole run, on a machine that is busy


def environment(extensions: Path, cache: Path) -> dict[str, str]:
    """A user's environment: one thread per rank, no network, no rank, an empty op cache."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    own = {name: value for name, value in os.environ.items() if name not in ranks}
    return own | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCH_EXTENSIONS_DIR": str(extensions),
        "CLASSIC_RLHF_CACHE": str(cache),
    }


@dataclass
class Program:
    """A started program; `output` is a file with its stdout, `errors` one with its stderr."""

    process: "subprocess.Popen[bytes]"
    mark: str
    output: Path
    errors: Path

    def wait(self, seconds: float = LAUNCH_SECONDS) -> int:
        return self.process.wait(seconds)

    def family(self) -> dict[int, list[str]]:
        """Return the commands of the program and of all its living descendants."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() not in (folder / "environ").read_bytes():
                    continue
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # gone, or not ours
                continue
            if command:  # a zombie has none
                found[int(folder.name)] = command.split("\0")[:-1]
        return found

    def all_gone_within(self, seconds: float) -> bool:
        return wait_until(lambda: not self.family(), seconds)

    def end(self) -> None:
        for pid in self.family():
            os.kill(pid, signal.SIGKILL)


@contextmanager
def started(
    command: Sequence[str | Path], logs: Path, env: dict[str, str], cwd: Path = ROOT
) -> Iterator[Program]:
    """A program in a session of its own; what is left of it is killed at the end."""
    mark = uuid.uuid4().hex
    output, errors = logs / f"{mark}.out", logs / f"{mark}.err"
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            ["nice", *map(str, command)],
            env={**env, MARK: mark},
            cwd=cwd,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    program = Program(process, mark, output, errors)
    try:
        yield program
    finally:
        program.end()
        process.wait()


def reward_model_of(base: Path, folder: Path, env: dict[str, str]) -> Path:
    """A reward model that stage 2 has trained for one step, in this folder."""
    flags = ["--model_name_or_path", str(base), "--max_steps", "1", "--output_dir", str(folder)]
    command = ["python", str(ROOT / "step2_reward" / "main.py"), *flags]
    command += ["--normalization_samples", "4", "--normalization_new_tokens", "4"]
    with started(command, folder, env) as program:
        assert program.wait() == 0, program.errors.read_text()
    return folder


def skip_unless_required(marker: str, reason: str) -> NoReturn:
    """Skip tests whose package is not installed; REQUIRED_TESTS names markers that fail instead."""
    if marker in os.environ.get("REQUIRED_TESTS", "").split():
        pytest.fail(reason)
    pytest.skip(reason)


def is_full(session: pytest.Session) -> bool:
    """True if tests marked `full` are run, for which fixtures make more runs."""
    return any(item.get_closest_marker("full") for item in session.items)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def all_end_well(programs: Sequence[Program], seconds: float) -> None:
    """Wait until all have ended, or one with a failure or the time is up; none may have failed."""
    processes = [program.process for program in programs]
    wait_until(
        lambda: (
            any(process.poll() for process in processes)
            or all(process.poll() == 0 for process in processes)
        ),
        seconds,
    )
    status = [process.poll() for process in processes]
    errors = [program.errors.read_text()[-3000:] for program in programs]
    assert status == [0] * len(programs), "\n".join(errors)
