"""Two hosts, what a user brings to stage 3, and how it is started on both."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.network.namespaces import TwoHosts
from tests.stages.material import write_material
from tests.stages.processes import environment, reward_model_of, skip_unless_required


@pytest.fixture(scope="session")
def pairs() -> Iterator[list[TwoHosts]]:
    """Two hosts, and two more: to cut one pair's link leaves the other's alone."""
    made = [TwoHosts(f"rl{os.getpid()}{letter}") for letter in "ab"]
    if shutil.which("ip") is None:
        skip_unless_required("network", "no `ip` command (Debian's iproute2)")
    try:
        for hosts in made:
            hosts.make()
        yield made
    except OSError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    finally:
        for hosts in made:
            hosts.remove()


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="session")
def user_env(material, tmp_path_factory):
    """A user's environment; gloo is not told which interface to take."""
    extensions = tmp_path_factory.mktemp("torch_extensions")
    env = environment(extensions, material.data.parent)
    return {name: value for name, value in env.items() if name != "GLOO_SOCKET_IFNAME"}


@pytest.fixture(scope="session")
def scorer(material, user_env, tmp_path_factory):
    """A reward model of the material's base."""
    return reward_model_of(material.base, tmp_path_factory.mktemp("scorer"), user_env)
