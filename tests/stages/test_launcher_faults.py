"""A launch returns the right exit status, however it ends, and leaves no process behind."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.stages.processes import (
    LAUNCH_SECONDS,
    ROOT,
    Program,
    started,
    wait_until,
)
from training.launching.processes import find_free_port

GONE_SECONDS = 30.0  # ranks save first
RUN, MAIN = ROOT / "step1_sft" / "run.sh", ROOT / "step1_sft" / "main.py"


@pytest.fixture
def endless(material, user_env, tmp_path):
    """Start stage 1 with endless steps, and yield after the first."""

    @contextmanager
    def start(*command: str | Path, ranks: int) -> Iterator[Program]:
        env = user_env | {"NUM_GPUS": str(ranks), "MASTER_PORT": str(find_free_port())}
        flags = ["--model_name_or_path", material.base, "--output_dir", tmp_path / "out"]
        flags += ["--max_steps", "1000000", "--num_epochs", "1"]
        metrics = tmp_path / "out" / "metrics.jsonl"
        with started([*command, *flags], tmp_path, env) as program:
            running = wait_until(
                lambda: (
                    (metrics.exists() and metrics.stat().st_size > 0)
                    or program.process.poll() is not None
                ),
                LAUNCH_SECONDS,
            )
            assert running, "it did not start"
            assert program.process.poll() is None, program.errors.read_text()
            assert len(find_ranks(program)) == ranks
            yield program

    return start


def find_ranks(program: Program) -> list[int]:
    """Below `deepspeed` a rank is told its number; one that run.sh starts alone is not."""
    return [
        pid
        for pid, command in program.family().items()
        if "--local_rank" in str(command[3:4]) or command[1:3] == ["-u", str(MAIN)]
    ]


def is_started(program: Program, name: str) -> bool:
    """True if Python runs a script of this name."""
    commands = program.family().values()
    return any(Path(word).name == name for command in commands for word in command[1:2])


def inner_launcher_of(program: Program) -> int:
    [found] = [
        pid for pid, command in program.family().items() if "deepspeed.launcher.launch" in command
    ]
    return found


def test_killing_deepspeeds_inner_launcher_fails_and_loses_nothing(endless, tmp_path):
    with endless("bash", RUN, ranks=2) as program:
        os.kill(inner_launcher_of(program), signal.SIGKILL)
        assert program.wait(60) == 75
        assert program.all_gone_within(GONE_SECONDS)
        assert (tmp_path / "out" / "stopped.json").is_file()


def test_killing_one_rank_ends_the_other_and_the_launch(endless):
    with endless("bash", RUN, ranks=2) as program:
        os.kill(find_ranks(program)[-1], signal.SIGKILL)
        assert program.wait(60) not in (0, 2)
        assert program.all_gone_within(GONE_SECONDS)


def test_killing_the_only_rank_is_a_failure(endless):
    with endless("bash", RUN, ranks=1) as program:
        [rank] = find_ranks(program)
        os.kill(rank, signal.SIGKILL)
        assert program.wait(60) == 137
        assert program.all_gone_within(GONE_SECONDS)


@pytest.mark.parametrize(
    ("number", "ranks"),
    [(signal.SIGTERM, 2), pytest.param(signal.SIGINT, 1, marks=pytest.mark.full)],
)
def test_a_signal_to_run_sh_reaches_every_process(endless, number, ranks):
    with endless("bash", RUN, ranks=ranks) as program:
        os.kill(program.process.pid, number)
        assert program.wait(60) == 75
        assert program.all_gone_within(GONE_SECONDS)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.full), 2])
def test_killing_run_sh_itself_leaves_no_rank(endless, ranks):
    with endless("bash", RUN, ranks=ranks) as program:
        os.kill(program.process.pid, signal.SIGKILL)
        assert program.all_gone_within(GONE_SECONDS), program.family()


@pytest.mark.parametrize(
    ("launcher", "ranks"),
    [
        ("run.sh", 2),
        pytest.param("run.sh", 1, marks=pytest.mark.full),
        pytest.param("deepspeed", 2, marks=pytest.mark.full),
    ],
)
def test_killing_the_launcher_while_its_ranks_start_leaves_no_rank(
    material, user_env, tmp_path, launcher, ranks
):
    port = str(find_free_port())
    env = user_env | {"NUM_GPUS": str(ranks), "MASTER_PORT": port}
    bare = ["deepspeed", "--num_gpus", str(ranks), "--master_port", port, MAIN]
    flags = ["--model_name_or_path", material.base, "--output_dir", tmp_path / "out"]
    flags += ["--max_steps", "1000000"]
    command = [*(["bash", RUN] if launcher == "run.sh" else bare), *flags]
    with started(command, tmp_path, env) as program:
        assert wait_until(lambda: len(find_ranks(program)) == ranks, LAUNCH_SECONDS)
        os.kill(program.process.pid, signal.SIGKILL)  # the ranks import torch for seconds
        assert program.all_gone_within(60), program.family()


def test_a_signal_to_run_sh_before_there_is_a_rank_loses_nothing(material, user_env, tmp_path):
    env = user_env | {"NUM_GPUS": "2", "MASTER_PORT": str(find_free_port())}
    flags = ["--model_name_or_path", material.base, "--output_dir", tmp_path / "out"]
    with started(["bash", RUN, *flags], tmp_path, env) as program:
        assert wait_until(lambda: is_started(program, "deepspeed"), LAUNCH_SECONDS)
        os.kill(program.process.pid, signal.SIGTERM)  # deepspeed is being imported
        assert program.wait(60) == 75
        assert program.all_gone_within(GONE_SECONDS)
        said = "stopped by SIGTERM before the first step: nothing is lost"
        assert said in program.output.read_text().splitlines()


def test_one_rank_ignores_variables_that_an_older_job_left(material, user_env, tmp_path):
    left = {"MASTER_ADDR": "192.0.2.1", "CROSS_RANK": "0", "WORLD_SIZE": "4", "RANK": "3"}
    flags = ["--model_name_or_path", material.base, "--output_dir", tmp_path / "out"]
    command = ["bash", RUN, *flags, "--max_steps", "1"]
    with started(command, tmp_path, user_env | {"NUM_GPUS": "1", **left}) as program:
        assert program.wait() == 0, program.errors.read_text()


@pytest.mark.full
def test_ending_a_bare_deepspeed_leaves_no_rank(endless):
    bare = ["deepspeed", "--num_gpus", "2", "--master_port", str(find_free_port()), MAIN]
    with endless(*bare, ranks=2) as program:
        os.kill(program.process.pid, signal.SIGTERM)
        assert program.wait(60) != 0
        assert program.all_gone_within(GONE_SECONDS), program.family()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(
            ["--learning_rat", "1"],
            "main.py: error: unknown flags: --learning_rat 1; did you mean --learning_rate? "
            "(see --help)",
            marks=pytest.mark.full,
        ),
        (["--data_path", "no/such.jsonl"], "main.py: error: no/such.jsonl: no such file or folder"),
    ],
    ids=["a bad flag", "bad data"],
)
def test_a_users_mistake_is_one_line_and_status_2_on_two_ranks(
    material, user_env, tmp_path, flags, said
):
    env = user_env | {"NUM_GPUS": "2", "MASTER_PORT": str(find_free_port())}
    env |= {"OUTPUT_DIR": str(tmp_path / "out")}
    command = ["bash", RUN, "--model_name_or_path", material.base, *flags]
    with started(command, tmp_path, env) as program:
        assert program.wait() == 2
        assert program.errors.read_text().splitlines() == [said]
        assert not (tmp_path / "out").exists()
        assert program.all_gone_within(GONE_SECONDS)
