"""One Slurm for the tests of a module, and a user's data."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, NotInstalledError, running
from tests.stages.material import write_material
from tests.stages.processes import environment, skip_unless_required


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def cluster(material, tmp_path_factory) -> Iterator[Cluster]:
    user = environment(tmp_path_factory.mktemp("torch_extensions"), material.data.parent)
    try:
        with running(user, tmp_path_factory.mktemp("jobs")) as found:
            yield found
    except NotInstalledError as error:
        skip_unless_required("slurm", str(error))
