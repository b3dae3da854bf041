import json
from dataclasses import replace

import pytest
import torch

from tests.tiny_models import CPU
from training.arguments.common import CommonArgs
from training.runtime.distributed import World
from training.runtime.profiling import profile_step


def multiply() -> None:
    torch.ones(8, 8) @ torch.ones(8, 8)


@pytest.fixture
def args(tmp_path):
    return CommonArgs(output_dir=str(tmp_path), profile_step=2)


def test_only_the_named_step_is_recorded(args, tmp_path):
    for step in (1, 2, 3):
        with profile_step(args, World(0, 1, CPU), step):
            multiply()
    files = sorted(file.name for file in (tmp_path / "profile").iterdir())
    assert files == ["step_2.json", "step_2.txt"]
    names = {
        event.get("name")
        for event in json.loads((tmp_path / "profile/step_2.json").read_text())["traceEvents"]
    }
    assert "aten::mm" in names
    assert "aten::mm" in (tmp_path / "profile/step_2.txt").read_text()


def test_no_step_and_other_ranks_write_nothing(args, tmp_path):
    with profile_step(replace(args, profile_step=0), World(0, 1, CPU), 0):
        multiply()
    with profile_step(args, World(1, 2, CPU), 2):
        multiply()
    assert not (tmp_path / "profile").exists()
