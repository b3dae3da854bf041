"""A user's mistake with a tool: one line, status 2, nothing written. And real launches."""

import importlib
import io
import subprocess
import sys

import pytest

from tests.evaluation.material import write_material
from tests.stages.mistakes.annotation import ANNOTATION, INSPECT
from tests.stages.mistakes.programs import CHAT, OTHERS
from tests.stages.mistakes.tools import COLLECT, EVALUATE, ToolInputs
from tests.stages.processes import ROOT, environment

MAINS = {
    "collect": "step2_reward.collect",
    "evaluate": "step3_ppo.evaluate",
    "chat": "step3_ppo.chat",
    "annotation": "training.data.annotation.__main__",
    "inspect": "training.data.inspect",
    "quickstart": "examples.quickstart",
    **{
        f"benchmarks.{name}": f"benchmarks.{name}"
        for name in ("memory", "ppo", "rankings", "reward", "rollout", "sft", "zero")
    },
}
TOOLS = {**EVALUATE, **COLLECT, **ANNOTATION, **INSPECT, **CHAT, **OTHERS}
assert len(TOOLS) == sum(map(len, (EVALUATE, COLLECT, ANNOTATION, INSPECT, CHAT, OTHERS)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_material(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("case", TOOLS)
def test_a_mistake_with_a_tool_is_one_line(
    made, tmp_path, monkeypatch, capsys, as_one_process, case
):
    tool, flags, expected = TOOLS[case]
    (tmp_path / "in").mkdir()
    given = flags(ToolInputs(made, tmp_path / "in"))
    monkeypatch.setattr(sys, "argv", [tool, *given])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)  # so that the default paths lead nowhere
    before = sorted([*tmp_path.rglob("*"), *made.rglob("*")])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(MAINS[tool]).main()
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "error: " in line]
    assert ended.value.code == 2
    assert len(lines) == 1, said.err
    assert said.err.splitlines()[-1] == lines[0], "more was printed after it"
    assert "Traceback" not in said.err
    assert all(part in lines[0] for part in expected), lines[0]
    assert sorted([*tmp_path.rglob("*"), *made.rglob("*")]) == before, "something was written"


LAUNCHES = {
    "a stage by its script": ["bash", "step1_sft/run.sh", "--learning_rat", "1"],
    "a benchmark": [sys.executable, "-m", "benchmarks.rollout", "--pairs", "0"],
}
MORE_LAUNCHES = {  # of --all
    "a stage without a model": ["bash", "step2_reward/run.sh", "--model_name_or_path", "./no"],
    "a stage by itself": [sys.executable, "step3_ppo/main.py", "--top_p", "7"],
    "the collection by its script": ["bash", "step2_reward/collect.sh", "--output", "x.txt"],
    "a module": [sys.executable, "-m", "training.data.inspect", "no.jsonl"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        *(pytest.param(command, id=name) for name, command in LAUNCHES.items()),
        *(
            pytest.param(command, id=name, marks=pytest.mark.full)
            for name, command in MORE_LAUNCHES.items()
        ),
    ],
)
def test_a_mistake_of_a_real_launch_is_one_line(tmp_path, command):
    env = environment(tmp_path / "ops", tmp_path / "cache") | {"OUTPUT_DIR": str(tmp_path / "out")}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert "error: " in lines[0]
    assert command[-2].removeprefix("training.data.inspect") in lines[0]
    assert not (tmp_path / "out").exists()
