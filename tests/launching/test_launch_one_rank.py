"""When a launch starts the only rank itself, without `deepspeed`."""

import pytest

from training.launching import hostfile
from training.launching import launch as module


@pytest.mark.parametrize(
    ("flags", "has_accelerator", "expected"),
    [
        ([], False, True),
        ([], True, False),
        (["--num_gpus", "1"], True, True),
        (["--num_gpus", "2"], False, False),
        (["--master_port", "29501"], False, True),
        (["--num_gpus", "1", "--hostfile", "hosts"], False, False),
        (["--num_gpus=1"], False, False),
    ],
)
def test_one_rank_is_started_without_a_launcher(flags, has_accelerator, expected):
    assert module._is_one_rank(flags, has_accelerator) is expected


def test_deepspeeds_default_hostfile_is_left_to_deepspeed(monkeypatch, tmp_path):
    monkeypatch.setattr(hostfile, "UNASKED", tmp_path / "hostfile")
    assert module._is_one_rank([], has_accelerator=False)
    hostfile.UNASKED.write_text("one\ntwo\n")
    assert not module._is_one_rank([], has_accelerator=False)
