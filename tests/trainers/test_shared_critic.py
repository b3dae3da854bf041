"""--critic shared: one trunk, two heads, one loss."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_models import gpt2, write_lm
from tests.trainers.bandit import EOS_ID, PAD_ID, PROMPTS, TOKENIZER, Bandit
from training.arguments.ppo import PPOArgs
from training.data.collate import collate_responses
from training.models.scalar import ScalarModel, load_scalar_model, read_settings
from training.trainers.ppo.rollout import RolloutCollector
from training.trainers.saving import save_critic

ARGS = PPOArgs(
    zero_stage=0,
    dtype="fp32",
    critic="shared",
    vf_coef=0.5,
    max_new_tokens=7,
    max_steps=2,
    rollout_batch_size=len(PROMPTS),
    samples_per_prompt=8,
    minibatch_size=len(PROMPTS) * 4,
    ppo_epochs=2,
    actor_lr=1e-2,
    critic_lr=1e-2,
    lr_scheduler="constant",
    warmup_ratio=0.0,
)


def bandit_of(world, folder, args):
    lm = gpt2(len(TOKENIZER), seed=1, bos_token_id=EOS_ID, eos_token_id=EOS_ID)
    return Bandit(args, world, write_lm(folder, lm, TOKENIZER))


def batch():
    prompts, responses = [[0, 1], [2, 3, 4]], [[1, 2, 3], [5, EOS_ID]]
    return collate_responses(prompts, responses, pad_id=PAD_ID, device=torch.device("cpu"))


def test_a_value_is_read_at_the_position_that_predicts_its_token(world, tmp_path):
    module = bandit_of(world, tmp_path, ARGS).models.actor.module.eval()
    torch.nn.init.normal_(module.value_head.weight)
    tokens = batch()
    (values,) = module(*tokens.inputs, values_only=True)
    expected = []
    for row, first, last in [([0, 1, 1, 2, 3], 1, 3), ([2, 3, 4, 5, EOS_ID], 2, 3)]:
        hidden = module.lm.transformer(input_ids=torch.tensor([row])).last_hidden_state[0]
        expected.append(hidden[first : last + 1] @ module.value_head.weight[0])
    assert_close(values, torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_values_come_with_the_log_probs_and_start_at_nothing(world, tmp_path):
    module = bandit_of(world, tmp_path, ARGS).models.actor.module.eval()
    tokens = batch()
    logprobs, entropies, values = module(*tokens.inputs, with_entropy=True)
    assert logprobs.shape == entropies.shape == values.shape == (5,)
    assert values.eq(0).all()


def test_both_losses_reach_the_trunk_and_the_head_learns_at_the_critics_rate(world, tmp_path):
    args = replace(ARGS, actor_lr=1e-9, critic_lr=1e-2, max_steps=1)
    bandit = bandit_of(world, tmp_path, args)
    module = bandit.models.actor.module
    trunk = module.lm.transformer.h[0].attn.c_attn.weight.detach().clone()
    metrics = bandit.train()[0]
    assert metrics["value/loss"] > 0
    assert metrics["policy/grad_norm"] > 0
    assert "value/grad_norm" not in metrics
    assert module.value_head.weight.abs().min() > 1e-3
    assert_close(module.lm.transformer.h[0].attn.c_attn.weight, trunk, rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{"micro_batch_tokens": 40}, {"old_logprobs": "recompute"}])
def test_micro_batches_and_where_old_log_probs_come_from_do_not_matter(world, tmp_path, changes):
    results = []
    for args in (ARGS, replace(ARGS, **changes)):
        bandit = bandit_of(world, tmp_path, args)
        history = bandit.train()
        results.append((history, list(bandit.models.actor.module.parameters())))
    (history, weights), (other_history, others) = results
    for found, known in zip(history, other_history, strict=True):
        for name in found:
            if not name.startswith("time/"):
                assert found[name] == pytest.approx(known[name], rel=1e-3, abs=2e-4), name
    assert_close(weights, others, rtol=1e-3, atol=2e-4)


def test_values_come_near_to_what_responses_earn(world, tmp_path):
    args = replace(ARGS, max_steps=30, actor_lr=1e-6, value_clip_range=0.0, missing_eos_penalty=8.0)
    history = bandit_of(world, tmp_path, args).train()
    assert history[0]["value/mean"] == 0.0
    assert history[-1]["value/mean"] < -2.0  # most responses do not end and lose 8
    assert history[-1]["value/loss"] < history[0]["value/loss"] * 2 / 3


def test_the_critic_is_saved_as_a_scalar_model_that_reads_the_same(world, tmp_path):
    bandit = bandit_of(world, tmp_path / "lm", ARGS)
    bandit.train()
    save_critic(bandit.models, TOKENIZER, world, tmp_path / "critic")
    settings = read_settings(str(tmp_path / "critic"), flag="", hint="")
    critic: ScalarModel = load_scalar_model(
        str(tmp_path / "critic"),
        settings,
        device=torch.device("cpu"),
        compute_dtype=torch.float32,
    ).eval()
    rollout = RolloutCollector(ARGS, world, TOKENIZER, bandit.models).collect(9, PROMPTS, 2)
    for row, (prompt, response) in enumerate(zip(rollout.prompts, rollout.responses, strict=True)):
        tokens = torch.tensor([prompt + response])
        readings = critic(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
        values = readings[len(prompt) - 1 : len(prompt) + len(response) - 1]
        assert_close(rollout.values[row, : len(response)], values, rtol=1e-4, atol=1e-5)
    assert rollout.values.abs().max() > 1e-3
