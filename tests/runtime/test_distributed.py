import importlib
import os

import pytest
import torch
import torch.distributed as dist

from training.arguments.common import EngineArgs
from training.arguments.parsing import UserError
from training.runtime import distributed, engine


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """No rank is set, and what a session sets is taken back."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(distributed, "set_logging", lambda *_: None)


def test_plain_python_is_one_rank_and_a_process_may_have_session_after_session():
    for _ in range(2):
        with distributed.session(EngineArgs()) as world:
            assert (world.rank, world.size, world.is_main) == (0, 1, True)
            assert dist.get_world_size() == 1
        assert not dist.is_initialized()


def test_a_user_error_is_one_line_and_status_2(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/step1_sft/main.py"])
    with pytest.raises(SystemExit) as ended, distributed.session(EngineArgs()):
        raise UserError("--seed is bad\nin two ways")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "main.py: error: --seed is bad in two ways\n"
    assert not dist.is_initialized()


def test_our_own_mistakes_keep_their_traceback_and_leave_no_group():
    with pytest.raises(ZeroDivisionError), distributed.session(EngineArgs()):
        raise ZeroDivisionError
    assert not dist.is_initialized()


def test_the_seed_decides_what_torch_draws():
    drawn = []
    for seed in (5, 5, 6):
        with distributed.session(EngineArgs(seed=seed)):
            drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[1] != drawn[2]


def test_no_op_is_compiled_for_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with distributed.session(EngineArgs()):
        table = importlib.import_module("deepspeed.ops").__compatible_ops__
        assert table["deepspeed_shm_comm"] is False
    assert os.listdir(tmp_path) == []


def test_collectives_of_one_rank_give_back_what_they_got(alone):
    values = torch.tensor([1.0, 2.0])
    for found in (alone.all_sum(values), alone.all_max(values)):
        assert torch.equal(found, values)
        assert found is not values
    assert alone.gather("x") == ["x"]
    assert alone.from_main("x") == "x"


@pytest.mark.parametrize(
    ("choice", "has_bf16", "expected"),
    [
        ("fp32", True, torch.float32),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", True, torch.bfloat16),
    ],
)
def test_auto_is_bf16_where_the_processor_has_it(monkeypatch, choice, has_bf16, expected):
    monkeypatch.setattr(engine, "cpu_has_bf16", lambda: has_bf16)
    assert engine.compute_dtype(choice, torch.device("cpu")) == expected
