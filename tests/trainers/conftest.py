import logging
import socket
from collections.abc import Iterator

import pytest
import torch

from training.arguments.ppo import PPOArgs
from training.runtime import distributed
from training.runtime.distributed import World


@pytest.fixture
def world(monkeypatch) -> Iterator[World]:
    """One rank, in this process; what joining changes in it is put back."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_PORT": port}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with torch.random.fork_rng(), distributed.session(PPOArgs()) as joined:
        yield joined
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def alone() -> World:
    """The only rank of a run, without a process group."""
    return World(rank=0, size=1, device=torch.device("cpu"))
