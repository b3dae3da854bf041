"""Steps of stages 1 and 2 give the same numbers however sequences share rows."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_models import (
    CPU,
    PAD_ID,
    build_tokenizer,
    gpt2,
    rows_of,
    scalar_model,
    scores,
    write_lm,
)
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data.encode import EncodedGroup, EncodedText
from training.data.records import Pair
from training.models.loading import load_causal_lm
from training.models.policy import Policy
from training.models.scalar import ScalarSettings
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.trainers.reward.step import RewardTrainer
from training.trainers.sft.step import SFTTrainer

WORLD = World(0, 1, CPU)
TEXTS = [
    EncodedText(row, [False, *[True] * (len(row) - 1)])
    for row in rows_of([24, 3, 17, 5, 9, 12, 2, 7])
]
PAIRS = (Pair(0, 1), Pair(2, 0), Pair(1, 3), Pair(4, 3))
ALL_PAIRS_OF_4 = tuple(Pair(i, j) for i, j in combinations(range(4), 2))
GROUPS = [
    EncodedGroup(prompt, rows_of([4, 2, 7, 3, 5], seed=index), PAIRS, str(index))
    for index, prompt in enumerate(rows_of([11, 3, 16], seed=9))
]


class PlainEngine(TrainingEngine):
    """A training engine's interface around a module alone; counts the tokens it is given."""

    module: Any = None

    def __init__(self, module):
        self.module = module
        self.padded_tokens = 0

    def __call__(self, input_ids, *inputs, **options):
        self.padded_tokens += input_ids.numel()
        return self.module(input_ids, *inputs, **options)

    def backward(self, loss, *, last):
        loss.backward()

    def compute_gradient_norm(self):
        return 0.0

    def step(self, lr_scale):
        pass


@pytest.fixture
def folder(tmp_path):
    return write_lm(tmp_path / "lm", gpt2(len(build_tokenizer())))


def gradients(engine):
    return {name: p.grad for name, p in engine.module.named_parameters() if p.grad is not None}


def assert_near(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("packing", ["auto", "always"])
def test_a_step_of_stage_1_has_the_loss_and_gradients_of_rows_apart(folder, packing):
    def step(packing):
        lm = load_causal_lm(folder, build_tokenizer(), device=CPU, dropout=0.0)
        engine = PlainEngine(Policy(lm, pad_id=PAD_ID, compute_dtype=torch.float32))
        args = SFTArgs(packing=packing, max_length=24, micro_batch_tokens=200)
        trainer = SFTTrainer(args, WORLD, engine, TEXTS)
        loss = trainer.step(range(len(TEXTS)), 1.0)["loss/train"]
        held_out = trainer.evaluate(TEXTS[:5])["loss/eval"]
        return loss, held_out, gradients(engine), engine.padded_tokens

    *expected, apart = step("never")
    *found, packed = step(packing)
    assert found[:2] == pytest.approx(expected[:2], rel=1e-5)
    assert_near(found[2], expected[2])
    assert packed < apart


@pytest.mark.parametrize("packing", ["auto", "always"])
def test_a_step_of_stage_2_has_the_loss_and_gradients_of_rows_apart(folder, packing):
    def step(packing):
        engine = PlainEngine(scalar_model(folder, ScalarSettings()))
        args = RewardArgs(packing=packing, micro_batch_tokens=150)
        trainer = RewardTrainer(args, WORLD, engine, GROUPS, PAD_ID)
        return trainer.step(GROUPS, 1.0), gradients(engine), engine.padded_tokens

    expected, expected_gradients, apart = step("never")
    found, found_gradients, packed = step(packing)
    for name in ("loss/train", "accuracy/train"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    assert_near(found_gradients, expected_gradients)
    assert packed < 0.8 * apart


@pytest.mark.parametrize("average", ["prompt_mean", "pair_mean"])
def test_a_ranking_has_the_loss_and_gradients_of_its_pairs(folder, average):
    """Four ranked responses, six pairs; benchmarks/rankings.py counts the tokens saved."""
    ranked = [
        replace(group, response_ids=group.response_ids[:4], pairs=ALL_PAIRS_OF_4)
        for group in GROUPS
    ]
    apart = [
        replace(group, response_ids=[group.response_ids[p.chosen], group.response_ids[p.rejected]],
                pairs=(Pair(0, 1),))
        for group in ranked
        for p in group.pairs
    ]  # fmt: skip

    def step(groups):
        engine = PlainEngine(scalar_model(folder, ScalarSettings()))
        args = RewardArgs(group_average=average)
        trainer = RewardTrainer(args, WORLD, engine, groups, PAD_ID)
        return trainer.step(groups, 1.0), gradients(engine)

    expected, expected_gradients = step(apart)
    found, found_gradients = step(ranked)
    for name in ("loss/train", "accuracy/train"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    assert_near(found_gradients, expected_gradients)


@pytest.mark.parametrize("packing", ["auto", "always", "never"])
@pytest.mark.parametrize("size", [2, 3, 12])
def test_scores_are_those_of_each_response_alone(folder, packing, size):
    """Groups of more than --responses_per_group responses are scored in parts."""
    model = scalar_model(folder, ScalarSettings())
    args = RewardArgs(packing=packing, responses_per_group=size, micro_batch_tokens=90)
    trainer = RewardTrainer(args, WORLD, PlainEngine(model), GROUPS, PAD_ID)
    found = trainer.score([*GROUPS, replace(GROUPS[0], response_ids=rows_of([5], seed=4))])
    for group, group_scores in zip(GROUPS, found, strict=False):
        expected = [scores(model, [group.prompt_ids + ids]).item() for ids in group.response_ids]
        assert group_scores == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert len(found[3]) == 1
