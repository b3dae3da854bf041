"""A user's mistake: one line that names the flag or the line, status 2, nothing written.

The programs are called as a launcher calls them, by their `main`. No model may have been made by
then: a mistake must not cost the minutes that loading one takes.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.stages import material as m
from tests.stages.mistakes.any_stage import ANY_STAGE
from tests.stages.mistakes.inputs import Inputs
from tests.stages.mistakes.ppo import PPO, UNREADABLE
from tests.stages.mistakes.reward import REWARD_STAGE
from tests.stages.mistakes.sft import SFT
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.models.loading import load_causal_lm, save_causal_lm
from training.models.scalar import ScalarSettings, build_scalar_model, save_scalar_model
from training.models.tokenizers import load_tokenizer
from training.runtime import engine
from training.runtime.distributed import World
from training.trainers.ppo.setup import check_stages

PROGRAMS = {"sft": "step1_sft", "reward": "step2_reward", "ppo": "step3_ppo"}
CPU = torch.device("cpu")


def finish(folder: Path) -> None:
    (folder / "args.json").write_text("{}")
    (folder / "complete.json").write_text("{}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A base model, and what stages 1 and 2 leave of it, untrained."""
    root = tmp_path_factory.mktemp("finished")
    base = m.write_base(root / "base")
    tokenizer = load_tokenizer(str(base), flag="")
    lm: Any = load_causal_lm(str(base), tokenizer, device=CPU, dropout=None)
    save_causal_lm(lm, dict(lm.named_parameters()), tokenizer, root / "sft")
    reward = build_scalar_model(
        str(root / "sft"), ScalarSettings(), device=CPU, compute_dtype=torch.float32
    )
    save_scalar_model(reward, dict(reward.named_parameters()), tokenizer, root / "reward")
    finish(root / "sft")
    finish(root / "reward")
    return base, root / "sft", root / "reward"


@pytest.fixture
def inputs(folders, tmp_path) -> Inputs:
    base, sft, reward = folders
    return Inputs(base, sft, reward, tmp_path)


@pytest.fixture
def refuse(monkeypatch, capsys, tmp_path, as_one_process) -> Callable[..., str]:
    """Runs a stage that must refuse its flags. Returns the line that it prints."""
    made: list[type] = []
    original = PreTrainedModel.__init__

    def counted(self: Any, *inputs: Any, **options: Any) -> None:
        if torch.get_default_device().type != "meta":  # there is no memory behind those
            made.append(type(self))
        original(self, *inputs, **options)

    def run(stage: str, flags: list[str], *, may_load: bool = False) -> str:
        monkeypatch.setattr(PreTrainedModel, "__init__", counted)
        monkeypatch.setattr(sys, "argv", [f"{PROGRAMS[stage]}/main.py", *flags])
        monkeypatch.chdir(tmp_path)  # so that the default paths lead nowhere
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"{PROGRAMS[stage]}.main").main()
        lines = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2
        assert len(lines) == 1, lines
        assert lines[0].startswith("main.py: error: ")
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        assert may_load or not made, "a model was made before the mistake was found"
        line: str = lines[0].removeprefix("main.py: error: ")
        return line

    return run


ANY_STAGE_IN_TURN = [  # without --all, each mistake is made in one stage
    pytest.param(case, stage, marks=() if number % len(PROGRAMS) == turn else pytest.mark.full)
    for number, case in enumerate(ANY_STAGE)
    for turn, stage in enumerate(PROGRAMS)
]


@pytest.mark.parametrize(("case", "stage"), ANY_STAGE_IN_TURN)
def test_a_mistake_that_any_stage_may_meet(refuse, inputs, case, stage):
    flags, expected = ANY_STAGE[case]
    output = ["--output_dir", str(inputs.tmp / "out")]
    line = refuse(stage, [*inputs.good_flags(stage), *output, *flags(inputs)])
    assert all(part in line for part in expected), line


OWN_STAGE = [
    pytest.param(stage, *case, id=f"{stage}-{name}")
    for stage, cases in (("sft", SFT), ("reward", REWARD_STAGE), ("ppo", PPO))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("stage", "flags", "expected"), OWN_STAGE)
def test_a_mistake_of_one_stage(refuse, inputs, stage, flags, expected):
    extra = flags(inputs)
    output = ["--output_dir", str(inputs.tmp / "out")]
    line = refuse(stage, [*inputs.good_flags(stage), *output, *extra])
    assert all(part in line for part in expected), line
    assert refuse(stage, [*inputs.good_flags(stage), *output, *extra, "--dry_run"]) == line


@pytest.mark.parametrize("case", UNREADABLE)
def test_weights_that_cannot_be_read_are_one_line(refuse, inputs, case):
    flags, expected = UNREADABLE[case]
    given = flags(inputs)
    line = refuse("ppo", [*inputs.good_flags("ppo"), *given], may_load=True)
    assert all(part in line for part in expected), line


@pytest.mark.parametrize("stage", PROGRAMS)
def test_a_folder_that_may_not_be_written_to(refuse, inputs, stage, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    line = refuse(stage, [*inputs.good_flags(stage), "--output_dir", str(inputs.tmp / "out")])
    assert f"--output_dir {inputs.tmp / 'out'}" in line
    assert "may not be written to" in line


def test_the_tables_hold_at_least_120_mistakes():
    tools = importlib.import_module("tests.stages.test_bad_input_tools").TOOLS
    assert len(PROGRAMS) * len(ANY_STAGE) + len(OWN_STAGE) + len(tools) >= 400
    assert len(ANY_STAGE) + len(OWN_STAGE) + len(tools) >= 300


@pytest.mark.parametrize("stage", PROGRAMS)
def test_bf16_on_a_processor_without_it_is_refused(refuse, inputs, stage, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine, "has_cpu_bf16", lambda: False)
    line = refuse(stage, [*inputs.good_flags(stage), "--dtype", "bf16"])
    assert "--dtype bf16" in line
    assert "--dtype auto or fp32" in line


@pytest.mark.parametrize(
    ("stage", "first"),
    [("reward", "step1_sft/run.sh"), ("ppo", "step1_sft/run.sh")],
)
def test_a_stage_without_flags_says_what_to_run_first(refuse, inputs, stage, first):
    assert f"run {first} first" in refuse(stage, [])


def test_stage_1_without_flags_says_how_to_prepare_the_example(refuse, inputs, monkeypatch):
    monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(inputs.tmp / "cache"))
    monkeypatch.setattr("training.trainers.sft.setup.QUICKSTART_BASE", inputs.tmp / "none")
    assert "python examples/movie_reviews/prepare.py" in refuse("sft", [])


@pytest.mark.parametrize("name", ["rollout_batch_size", "minibatch_size"])
def test_a_batch_that_does_not_go_into_the_ranks_is_refused(inputs, name):
    sizes: dict[str, Any] = {"rollout_batch_size": 6, "minibatch_size": 6, name: 3}
    args = PPOArgs(
        actor_model_name_or_path=str(inputs.sft),
        reward_model_name_or_path=str(inputs.reward),
        samples_per_prompt=2,
        **sizes,
    )
    with pytest.raises(UserError, match=f"--{name} .3. must be a multiple of the 2 ranks"):
        check_stages(args, World(0, 2, CPU))


BRIEFLY = {
    "sft": "",
    "reward": "",
    "ppo": "--rollout_batch_size 2 --minibatch_size 2 --max_new_tokens 4",
}


@pytest.mark.parametrize("stage", PROGRAMS)
def test_the_flags_that_all_cases_start_from_are_good(inputs, monkeypatch, as_one_process, stage):
    """Else a case might be refused for another reason than its own."""
    flags = ["--output_dir", str(inputs.tmp / "out"), *BRIEFLY[stage].split()]
    monkeypatch.setattr(sys, "argv", ["main.py", *inputs.good_flags(stage), *flags])
    importlib.import_module(f"{PROGRAMS[stage]}.main").main()
    assert (inputs.tmp / "out" / "complete.json").is_file()
