"""The number of threads per rank on a CPU."""

import os

import pytest
import torch

from training.runtime.process import pick_device

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the ranks' threads matter on a CPU")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 8),
        ({"LOCAL_WORLD_SIZE": "4"}, 2),
        ({"LOCAL_SIZE": "4"}, 2),  # deepspeed's name
        ({"LOCAL_WORLD_SIZE": "16"}, 1),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}, 0),  # as the user says
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", **TORCHRUN}, 4),  # torchrun said so
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "3", **TORCHRUN}, 0),
        ({"LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1", **TORCHRUN}, 0),  # of one it says none
    ],
)
def test_ranks_share_the_cores_unless_the_user_sets_threads(monkeypatch, environment, expected):
    told: list[int] = []
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    assert pick_device(0).type == "cpu"
    assert told == ([expected] if expected else [])
