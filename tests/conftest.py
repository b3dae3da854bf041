"""Set-up of every test: one thread, no network, no absent accelerator; and which tests are run."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported

import pytest
import torch
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from training.runtime.distributed import World

torch.set_num_threads(1)
for number in (signal.SIGINT, signal.SIGHUP):
    # Started in the background, the suite ignores these, and so would every program that it starts.
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
if not torch.cuda.is_available():
    # Silences DeepSpeed's warning that it found no accelerator.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


# Files that take longest are begun first, so that two workers end at about the same time. Those
# that mostly wait (Slurm, several hosts, Label Studio) are between those that compute.
LONGEST_FIRST = (
    *("stages/test_matrix.py", "slurm/test_jobs.py", "benchmarks/test_kill_resume.py"),
    *("network/test_two_hosts.py", "stages/test_resume.py", "stages/test_elastic.py"),
    *("stages/test_guards.py", "stages/test_launcher_faults.py", "stages/test_launch.py"),
    *("label_studio/test_round_trip.py", "estimates/test_memory_estimate.py"),
    *("stages/test_signals.py", "label_studio/test_page.py", "stages/test_memory.py"),
    *("data/test_memory.py", "benchmarks/test_endurance.py", "benchmarks/test_benchmarks.py"),
    *("stages/test_bad_input.py", "stages/test_tools.py", "stages/test_bad_input_tools.py"),
    *("trainers/test_bandit.py", "network/test_pdsh.py"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all", action="store_true", dest="run_all", help="also run the tests marked `full`"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Try few random inputs by default, many under --all."""
    settings.register_profile(
        "project",
        max_examples=300 if config.getoption("run_all") else 30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    settings.load_profile("project")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop what is marked `full`, unless --all is given or tests are named one by one."""
    if not config.getoption("run_all") and not any("::" in word for word in config.args):
        dropped = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=dropped)
    rank = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def world(monkeypatch) -> Iterator["World"]:
    """One rank, in this process; what joining changes in it is put back."""
    from training.arguments.ppo import PPOArgs
    from training.runtime import distributed

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_PORT": port}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with torch.random.fork_rng(), distributed.join_ranks(PPOArgs()) as joined:
        yield joined
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def alone() -> "World":
    """The only rank of a run, without a process group."""
    from training.runtime.distributed import World

    return World(rank=0, size=1, device=torch.device("cpu"))
