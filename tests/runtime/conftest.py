import pytest
import torch

from training.runtime.distributed import World


@pytest.fixture
def alone() -> World:
    """The only rank of a run."""
    return World(rank=0, size=1, device=torch.device("cpu"))
