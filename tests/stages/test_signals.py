"""A signal to any process of a run: saved, ended with 75, no process left.

The statuses of `deepspeed` and `torchrun` are their own: what counts there is the saved run.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stages.processes import (
    LAUNCH_SECONDS,
    ROOT,
    Program,
    is_full,
    reward_model_of,
    started,
    wait_until,
)
from training.launching.processes import find_free_port
from training.runtime.checkpoint_store import CheckpointStore

STOP_SECONDS = 30.0
ENDLESS = "--max_steps 100000 --rollout_batch_size 8 --minibatch_size 4 --max_new_tokens 6"


@pytest.fixture(scope="module")
def scorer(material, user_env, tmp_path_factory):
    """A reward model of the material's base."""
    return reward_model_of(material.base, tmp_path_factory.mktemp("scorer"), user_env)


@pytest.fixture(scope="module")
def endless(material, scorer, user_env):
    """Start stage 3 with endless steps, and yield after the first."""

    @contextmanager
    def start(launcher: str, ranks: int, folder: Path) -> Iterator[Program]:
        port = str(find_free_port())
        main = ROOT / "step3_ppo" / "main.py"
        commands: dict[str, list[str | Path]] = {
            "run.sh": ["bash", main.with_name("run.sh")],
            "deepspeed": ["deepspeed", "--num_gpus", str(ranks), "--master_port", port, main],
            "torchrun": ["torchrun", "--nproc_per_node", str(ranks), "--master_port", port, main],
        }
        flags = ["--actor_model_name_or_path", material.base, "--output_dir", folder / "out"]
        flags += ["--reward_model_name_or_path", scorer, *ENDLESS.split()]
        env = user_env | {"NUM_GPUS": str(ranks), "MASTER_PORT": port}
        with started([*commands[launcher], *flags], folder, env) as program:
            running = wait_until(
                lambda: steps(folder) >= 2 or program.process.poll() is not None, LAUNCH_SECONDS
            )
            assert running, "it did not start"
            assert program.process.poll() is None, program.errors.read_text()
            yield program

    return start


def steps(folder: Path) -> int:
    """Rows of metrics.jsonl, one of them the evaluation before the first step."""
    metrics = folder / "out" / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def process_of(program: Program, which: str) -> int:
    """The process id of a rank, or of the launcher at that place in the chain."""
    if which == "run.sh":
        return program.process.pid
    needle = {"inner": "deepspeed.launcher.launch", "outer": "bin/deepspeed"}.get(which, "")
    for pid, command in program.family().items():
        if needle and any(needle in word for word in command[:4]):
            return pid
        rank = f"RANK={which}".encode()
        if not needle and rank in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"no {which} among {program.family()}")


def is_saved(folder: Path) -> bool:
    """True if the last logged step has a checkpoint, and the launch its marker."""
    saved = CheckpointStore(folder / "out", keep=1).find_newest()[0]
    if saved is None or not (folder / "out" / "stopped.json").is_file():
        return False
    state = json.loads((saved / "state.json").read_text())
    last = (folder / "out" / "metrics.jsonl").read_text().splitlines()[-1]
    return bool(state["step"] == json.loads(last)["step"])


CASES = [
    ("run.sh", 1, "run.sh", signal.SIGTERM),
    ("torchrun", 2, "1", signal.SIGUSR1),
]
MORE_CASES = [  # of --all
    ("run.sh", 2, "1", signal.SIGTERM),
    ("run.sh", 1, "0", signal.SIGINT),
    ("run.sh", 2, "run.sh", signal.SIGUSR1),
    ("run.sh", 2, "outer", signal.SIGTERM),
    ("run.sh", 2, "inner", signal.SIGTERM),
    ("deepspeed", 1, "0", signal.SIGTERM),
    ("deepspeed", 2, "run.sh", signal.SIGTERM),
    ("torchrun", 1, "run.sh", signal.SIGTERM),
]


@dataclass(frozen=True)
class Ended:
    """The end of a run after one signal."""

    folder: Path
    status: int
    seconds: float  # until its last process was gone
    output: str


@pytest.fixture(scope="module")
def outcomes(request, endless, tmp_path_factory):
    """The cases that were asked for, two at a time: a launch leaves a core idle for seconds."""
    cases = [*CASES, *(MORE_CASES if is_full(request.session) else [])]

    def stop(launcher: str, ranks: int, to: str, number: signal.Signals) -> Ended:
        folder = tmp_path_factory.mktemp("stopped")
        with endless(launcher, ranks, folder) as program:
            asked = time.monotonic()
            os.kill(process_of(program, to), number)
            status = program.wait(4 * STOP_SECONDS)
            assert program.all_gone_within(4 * STOP_SECONDS)
            seconds = time.monotonic() - asked
            said = program.output.read_text() + program.errors.read_text()
        return Ended(folder, status, seconds, said)

    with ThreadPoolExecutor(2) as pool:
        return {case: pool.submit(stop, *case) for case in cases}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=pytest.mark.full) for case in MORE_CASES)],
    ids=lambda case: " ".join(map(str, case)),
)
def test_one_signal_saves_and_ends_the_run(outcomes, case):
    ended = outcomes[case].result()
    launcher, _, to, _ = case
    is_told = launcher == "run.sh" or (launcher == "deepspeed" and to == "0")
    assert ended.status == 75 if is_told else ended.status != 0
    assert ended.seconds < STOP_SECONDS
    assert is_saved(ended.folder), ended.output
    assert "and saved; the same command resumes" in ended.output


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(endless, tmp_path):
    with endless("run.sh", 2, tmp_path) as program:
        rank = process_of(program, "0")
        os.kill(rank, signal.SIGSTOP)  # so that it cannot save
        os.kill(program.process.pid, signal.SIGTERM)
        time.sleep(3.0)
        assert program.process.poll() is None
        os.kill(program.process.pid, signal.SIGTERM)
        assert program.wait(20) == 143
        assert program.all_gone_within(5)
        assert not (tmp_path / "out" / "stopped.json").exists()
