"""The material of all stage tests, and a user's environment to run them in."""

import logging
import os
from collections.abc import Iterator

import pytest
import torch

from tests.stages.material import write_material
from tests.stages.processes import environment


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="session")
def extensions(tmp_path_factory):
    """Where torch would put an op that it compiles."""
    return tmp_path_factory.mktemp("torch_extensions")


@pytest.fixture(scope="session")
def user_env(material, extensions):
    """Environment of a user whose example is prepared: its data are the material's."""
    return environment(extensions, material.data.parent)


@pytest.fixture
def as_one_process() -> Iterator[None]:
    """A program's `main` sets its environment and its log; both are put back."""
    environment, root = dict(os.environ), logging.getLogger()
    handlers, level, threads = root.handlers[:], root.level, torch.get_num_threads()
    yield
    os.environ.clear()
    os.environ.update(environment)
    root.handlers[:] = handlers
    root.setLevel(level)
    torch.set_num_threads(threads)
