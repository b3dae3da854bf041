import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training.runtime.distributed import World


@pytest.fixture
def alone() -> World:
    """The only rank of a run."""
    return World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
