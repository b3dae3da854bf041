"""One optimizer step per rollout: the update's forwards give the old values and log-probs."""

from dataclasses import replace
from unittest.mock import PropertyMock

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_models import gpt2, write_lm
from tests.trainers.bandit import EOS_ID, PROMPTS, TOKENIZER, Bandit
from training.arguments.ppo import PPOArgs

ARGS = PPOArgs(
    zero_stage=0,
    dtype="fp32",
    max_new_tokens=7,
    max_steps=3,
    rollout_batch_size=len(PROMPTS),
    samples_per_prompt=8,
    minibatch_size=len(PROMPTS) * 8,
    micro_batch_tokens=60,  # several micro-batches, of unequal lengths
    ppo_epochs=1,
    actor_lr=1e-2,
    critic_lr=1e-2,
    lr_scheduler="constant",
    warmup_ratio=0.0,
    value_clip_range=0.2,
)


def run(world, folder, args):
    lm = gpt2(len(TOKENIZER), seed=1, bos_token_id=EOS_ID, eos_token_id=EOS_ID)
    bandit = Bandit(args, world, write_lm(folder, lm, TOKENIZER))
    history = bandit.train()
    weights = [
        parameter.detach().clone()
        for engine in (bandit.models.actor, bandit.models.critic)
        if engine is not None
        for parameter in engine.module.parameters()
    ]
    return history, weights


@pytest.mark.parametrize("changes", [{}, {"whiten_rewards": True}, {"kl_coef": 0.0}])
def test_it_learns_what_separate_forwards_for_old_values_and_log_probs_would(
    world, tmp_path, monkeypatch, changes
):
    args = replace(ARGS, **changes)
    assert args.is_single_update
    history, weights = run(world, tmp_path, args)
    monkeypatch.setattr(PPOArgs, "is_single_update", PropertyMock(return_value=False))
    expected_history, expected = run(world, tmp_path, replace(args, old_logprobs="recompute"))
    for found, known in zip(history, expected_history, strict=True):
        assert found.keys() == known.keys()
        for name in found:
            if not name.startswith("time/"):
                assert found[name] == pytest.approx(known[name], rel=1e-3, abs=2e-4), name
    # Adam divides by the size of a gradient: what is nearly nothing may differ in sign.
    assert_close(weights, expected, rtol=1e-3, atol=2e-4)


def test_more_than_one_step_a_rollout_is_no_single_update():
    assert not replace(ARGS, ppo_epochs=2).is_single_update
    assert not replace(ARGS, minibatch_size=ARGS.minibatch_size // 2).is_single_update


def test_its_ratio_is_one_and_the_gap_to_generation_is_reported(world, tmp_path):
    history, _ = run(world, tmp_path, ARGS)
    for metrics in history:
        assert metrics["policy/ratio_min"] == metrics["policy/ratio_max"] == 1.0
        assert 0.0 < metrics["policy/logprob_gap"] < 1e-5
        assert torch.tensor(metrics["policy/entropy"]) > 0
