"""Each check passes on sound models and fails on the fault that it looks for."""

import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.stages.spies import Patches
from training.arguments.parsing import GuardStop
from training.arguments.ppo import PPOArgs
from training.hybrid_engine.engine import HybridEngine
from training.models import scalar
from training.models.tiny import write_random_scorer, write_tiny_lm
from training.preflight.checks import Check, SelfCheck
from training.preflight.self_check import format_table, make_prompts, run_self_check
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.trainers.ppo.setup import Models, check_stages, load_models
from training.trainers.reward import step as reward_step

NAMES = {
    "ratio": "first ratio is 1",
    "kl": "first KL to ref is 0",
    "generation": "generation against training log-probs",
    "padding": "scores without and with padding",
    "weights": "weights changed by generation",
    "ending": "chance to end within 16 tokens",
    "stages": "the same reward in stages 2 and 3",
    "ranks": "1 rank in agreement",
}


@dataclass
class Parts:
    args: PPOArgs
    world: World
    tokenizer: Any
    models: Models
    prompts: list[Any]

    def check(self, **changes: Any) -> SelfCheck:
        parts = replace(self, **changes)
        return SelfCheck(parts.args, parts.world, parts.tokenizer, parts.models, parts.prompts)

    def failures(self, **changes: Any) -> set[str]:
        return failures(self.check(**changes))


def failures(check: SelfCheck) -> set[str]:
    """The short names of the checks that fail."""
    failed = {each.name for each in check.run() if not each.is_ok}
    assert failed <= set(NAMES.values())
    return {short for short, name in NAMES.items() if name in failed}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model = write_tiny_lm(folder / "model")
    return model, write_random_scorer(model, folder / "scorer", flag="--model")


@pytest.fixture
def parts(world, folders, tmp_path) -> Parts:
    args = PPOArgs(
        output_dir=str(tmp_path),
        actor_model_name_or_path=folders[0],
        reward_model_name_or_path=folders[1],
        zero_stage=0,
        dtype="fp32",
        max_new_tokens=16,
        max_prompt_length=64,
        critic="shared",
        cpu_blocks=False,  # they do not run with the dropout that a test enables
    )
    tokenizer, settings = check_stages(args, world)
    models = load_models(args, world, tokenizer, settings)
    return Parts(args, world, tokenizer, models, make_prompts(tokenizer, 4, longest=64))


def test_sound_models_pass_every_check_far_within_the_bounds(parts):
    checks = parts.check().run()
    assert [check.name for check in checks] == list(NAMES.values())
    assert all(check.is_ok for check in checks)
    equal = [check for check in checks if not check.at_least]
    assert all(check.measured < 1e-4 for check in equal)  # fp32; the bound is 1e-3


def test_the_run_is_unchanged_by_the_checks(parts):
    actor = parts.models.actor.module
    actor.train()
    before = [weight.detach().clone() for weight in actor.parameters()]
    draws = torch.get_rng_state()
    parts.check().run()
    assert all(map(torch.equal, before, actor.parameters()))
    assert torch.equal(draws, torch.get_rng_state())
    assert actor.training
    assert all(weight.grad is None for weight in actor.parameters())


def test_dropout_left_on_fails_the_first_ratio(parts):
    for module in parts.models.actor.module.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    assert parts.failures() == {"ratio", "generation"}


def test_an_actor_that_is_not_the_ref_fails_the_first_kl(parts):
    with torch.no_grad():
        parts.models.ref.lm.transformer.wte.weight[:, 0] += 0.5
    assert parts.failures() == {"kl"}


def test_a_decoder_at_another_temperature_fails_against_training(parts):
    parts.models.hybrid._sampling = replace(parts.models.hybrid._sampling, temperature=0.7)
    parts.models.hybrid._scheduler = None
    failed = parts.failures()
    assert "generation" in failed
    assert failed <= {"generation", "ending"}  # another temperature draws other responses


def test_positions_that_count_padding_fail_the_padding_check(parts):
    def without_positions(original: Any, *inputs: Any) -> Any:
        return {k: v for k, v in original(*inputs).items() if k != "position_ids"}

    with Patches() as patch:
        patch.around(scalar, "mask_inputs", without_positions)
        assert "padding" in parts.failures()


def test_generation_that_writes_to_a_weight_fails(parts):
    @contextmanager
    def writing(original: Any, hybrid: Any) -> Any:
        with original(hybrid) as generate:
            yield generate
        with torch.no_grad():
            hybrid._lm.transformer.h[0].ln_1.bias[0] += 1e-6

    with Patches() as patch:
        patch.around(HybridEngine, "generation", writing)
        assert parts.failures() == {"weights"}


def test_banning_eos_as_pad_makes_the_end_unreachable(parts):
    parts.models.actor.module.pad_id = parts.tokenizer.eos_token_id
    parts.models.ref.pad_id = parts.tokenizer.eos_token_id
    assert "ending" in parts.failures()


def test_reading_the_reward_one_token_early_fails_the_reward_check(parts):
    def early(original: Any, *inputs: Any, **options: Any) -> Any:
        batch, ends = original(*inputs, **options)
        return batch, {place: (row, index - 1) for place, (row, index) in ends.items()}

    with Patches() as patch:
        patch.around(reward_step, "collate_groups", early)
        assert parts.failures() == {"stages"}


@pytest.mark.parametrize("what", ["weights", "readings", "nan"])
def test_a_rank_that_differs_fails_the_check_of_ranks(parts, what):
    class Beside(World):
        """A second rank whose results differ from this one's in one respect."""

        def gather(self, value: Any) -> list[Any]:
            if not isinstance(value, tuple):
                return [value]
            own, readings = value
            other = {**own, "weights": ["another"]} if what == "weights" else own
            moved = readings + {"readings": 0.01, "nan": math.nan}.get(what, 0.0)
            return [value, (other, moved)]

    world = Beside(rank=0, size=1, device=parts.world.device)
    assert parts.failures(world=world) == {"ranks"}


def test_a_weight_that_is_not_finite_fails(parts):
    assert isinstance(parts.models.actor, TrainingEngine)
    with torch.no_grad():
        parts.models.actor.module.lm.transformer.h[0].ln_1.bias[0] = math.nan
    assert {"ratio", "kl", "generation"} <= parts.failures()


def test_the_table_has_one_line_per_check_and_one_hint_per_failure():
    checks = [
        Check("good", 0.5, 1.0, "unseen"),
        Check("bad", 2.0, 1.0, "do this"),
        Check("nan", math.nan, 1.0, "do that"),
        Check("reached", 0.5, 0.1, "unseen", at_least=True),
    ]
    lines = format_table(checks).splitlines()
    assert [line.split()[-1] for line in lines[:5]] == ["ok", "yes", "NO", "NO", "yes"]
    assert lines[5:] == ["bad: do this", "nan: do that"]
    assert lines[4].split()[1:4] == ["0.5", ">=", "0.1"]


def test_a_failure_stops_the_run_and_names_the_check(parts, caplog):
    caplog.set_level(logging.INFO)
    run_self_check(parts.args, parts.world, parts.tokenizer, parts.models, parts.prompts)
    with torch.no_grad():
        parts.models.ref.lm.transformer.wte.weight[:, 0] += 0.5
    with pytest.raises(GuardStop, match="1 of 8 checks failed: first KL to ref is 0"):
        run_self_check(parts.args, parts.world, parts.tokenizer, parts.models, parts.prompts)
    assert "first KL to ref is 0: actor and ref are not one model" in caplog.text
