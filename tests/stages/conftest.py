"""The material of all stage tests, and a user's environment to run them in."""

import pytest

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
