import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from training.arguments.common import EngineArgs
from training.arguments.parsing import UserError
from training.launching import ancestors
from training.runtime import distributed, engine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Unset rank variables, and restore the environment afterwards."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(distributed, "set_logging", lambda *_: None)


def test_plain_python_is_one_rank_and_can_join_again():
    for _ in range(2):
        with distributed.join_ranks(EngineArgs()) as world:
            assert (world.rank, world.size, world.is_main) == (0, 1, True)
            assert dist.get_world_size() == 1
        assert not dist.is_initialized()


def test_a_user_error_is_one_line_and_status_2(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/step1_sft/main.py"])
    with pytest.raises(SystemExit) as ended, distributed.join_ranks(EngineArgs()):
        raise UserError("--seed is bad\nin two ways")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "main.py: error: --seed is bad in two ways\n"
    assert not dist.is_initialized()


def test_our_own_mistakes_keep_their_traceback_and_leave_no_group():
    with pytest.raises(ZeroDivisionError), distributed.join_ranks(EngineArgs()):
        raise ZeroDivisionError
    assert not dist.is_initialized()


def test_the_seed_determines_torchs_random_numbers():
    drawn = []
    for seed in (5, 5, 6):
        with distributed.join_ranks(EngineArgs(seed=seed)):
            drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[1] != drawn[2]


def test_no_op_is_compiled_for_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with distributed.join_ranks(EngineArgs()):
        table = importlib.import_module("deepspeed.ops").__compatible_ops__
        assert table["deepspeed_shm_comm"] is False
    assert os.listdir(tmp_path) == []


def test_collectives_of_one_rank_return_their_input(alone):
    values = torch.tensor([1.0, 2.0])
    for found in (alone.sum_over_ranks(values), alone.max_over_ranks(values)):
        assert torch.equal(found, values)
        assert found is not values
    assert alone.gather("x") == ["x"]
    assert alone.broadcast("x") == "x"


TREE = """
import ctypes, os, sys, time
from training.launching import ancestors

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
for dies in ("nobody", "the inner launcher", "the outer launcher"):
    told, tells = os.pipe()
    ending, held = os.pipe()  # the launchers last until this process closes its end

    def launch(name):
        os.close(held)
        if name != dies:
            os.read(ending, 1)
        os._exit(0)

    if not os.fork():
        os.setsid()  # a shell's job
        if not os.fork():
            if not os.fork():
                os.close(held)
                time.sleep(0.5)
                is_orphan = ancestors._is_orphan(ancestors._list_ancestors(2))
                os.write(tells, str(is_orphan).encode())
                os._exit(0)
            launch("the inner launcher")
        launch("the outer launcher")
    os.close(tells)
    print(dies, os.read(told, 10).decode(), sep=": ")
    os.close(held)
"""


def test_a_rank_notices_its_dead_launcher_if_a_session_manager_adopts_orphans():
    env = {**os.environ, "CROSS_RANK": "0", "CROSS_SIZE": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", TREE]
    done = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.splitlines() == [
        "nobody: False",
        "the inner launcher: True",
        "the outer launcher: True",
    ]


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        (["{folder}/deepspeed"], True),  # as process 1 of a container
        (["-c", "import time; time.sleep(60)", "deepspeed main.py"], False),  # a shell, say
    ],
)
def test_process_1_may_be_the_launcher_itself(starts, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("CROSS_RANK", "0")
    (tmp_path / "deepspeed").write_text("import time; time.sleep(60)")
    words = [word.format(folder=tmp_path) for word in starts]
    with subprocess.Popen([sys.executable, *words], start_new_session=True) as launcher:
        while not Path(f"/proc/{launcher.pid}/cmdline").read_bytes():
            time.sleep(0.01)  # its words come a moment after the process
        assert ancestors._is_orphan([launcher.pid]) is not expected
        launcher.kill()


@pytest.mark.parametrize(
    ("started_by", "expected"),
    [([9, 8, 7], False), ([9, 8, 1], True), ([9, 1, 0], True)],
)
def test_a_rank_recognizes_run_sh_by_its_process_id(monkeypatch, started_by, expected):
    monkeypatch.setenv("CLASSIC_RLHF_LAUNCHED_BY", "7")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("CROSS_RANK", "0")
    monkeypatch.setenv("CROSS_SIZE", "1")
    assert ancestors._is_orphan(started_by) is expected


@pytest.mark.parametrize(
    ("choice", "has_bf16", "expected"),
    [
        ("fp32", True, torch.float32),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", True, torch.bfloat16),
    ],
)
def test_auto_is_bf16_if_the_processor_has_it(monkeypatch, choice, has_bf16, expected):
    monkeypatch.setattr(engine, "has_cpu_bf16", lambda: has_bf16)
    assert engine.compute_dtype(choice, torch.device("cpu")) == expected
