"""Every command of every recipe of quickstart.sh is accepted by its program."""

import json

import pytest

from examples.quickstart import RECIPES, Pipeline, QuickstartArgs, run_controls
from training.arguments.evaluate import EvaluateArgs
from training.arguments.parsing import parse_args
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs

STAGES = {
    "step1_sft/run.sh": SFTArgs,
    "step2_reward/run.sh": RewardArgs,
    "step3_ppo/run.sh": PPOArgs,
    "step3_ppo/evaluate.py": EvaluateArgs,
}


ALL = [(example, *key) for example, recipes in RECIPES.items() for key in recipes]


@pytest.fixture(params=ALL, ids=lambda key: f"{key[0]}-{key[1]}-{'smoke' if key[2] else 'full'}")
def commands(request, tmp_path, monkeypatch):
    """Name -> parsed flags of every program, for a run with controls that runs nothing."""
    example, base, smoke = request.param
    pipeline = Pipeline(
        QuickstartArgs(example=example, base=base, smoke=smoke, seed=5, output_dir=str(tmp_path))
    )
    parsed = {}

    def note(name, command):
        program = command[1]
        parsed[name] = (
            parse_args(STAGES[program], command[2:]) if program in STAGES else command[1:]
        )
        if program.endswith("evaluate.py"):
            summary = tmp_path / parsed[name].output_dir / "summary.json"
            summary.parent.mkdir(parents=True, exist_ok=True)
            summary.write_text(json.dumps({}))

    monkeypatch.setattr(pipeline, "_run", note)
    pipeline.prepare()
    pipeline.pretrain()
    pipeline.sft()
    pipeline.reward()
    pipeline.ppo()
    pipeline.evaluate()
    run_controls(pipeline)
    return base, parsed


def test_each_stage_starts_from_what_the_one_before_wrote(commands):
    base, parsed = commands
    first = "pretrain" if base == "tiny" else "reader"
    assert parsed["step2_reward"].model_name_or_path == parsed["sft"].output_dir
    assert parsed["step3_ppo"].actor_model_name_or_path == parsed["sft"].output_dir
    assert parsed["step3_ppo"].reward_model_name_or_path == parsed["step2_reward"].output_dir
    assert parsed["evaluate"].before == parsed["sft"].output_dir
    assert parsed["evaluate"].after == parsed["step3_ppo"].output_dir
    started = parsed["sft"].model_name_or_path
    assert (started == parsed[first].output_dir) == (base == "tiny")


def test_everything_has_the_seed_and_a_real_model_trains_with_lora(commands):
    base, parsed = commands
    stages = [parsed[name] for name in ("sft", "step2_reward", "step3_ppo")]
    assert {stage.seed for stage in stages} == {5}
    assert all((stage.lora_rank > 0) == (base == "smollm2") for stage in stages)


def test_the_text_of_a_real_model_is_read_by_one_that_had_no_part_in_it(commands):
    base, parsed = commands
    if base == "tiny":
        assert parsed["evaluate"].reader_model_name_or_path == ""
        return
    reader = parsed["reader"]
    assert parsed["evaluate"].reader_model_name_or_path == reader.output_dir
    assert reader.objective == "lm"
    assert reader.output_dir not in {parsed["sft"].model_name_or_path, parsed["sft"].output_dir}
    assert parsed["model"] == ["examples/movie_reviews/smollm2.py"]


def test_controls_change_one_thing_each(commands):
    _, parsed = commands
    assert parsed["controls/shuffled_reward"].shuffle_labels
    assert parsed["controls/no_kl_ppo"].kl_coef == 0
    assert parsed["controls/no_kl_ppo"].max_steps == parsed["step3_ppo"].max_steps
