from dataclasses import replace

import pytest
import torch

from tests.tiny_models import gpt2, write_lm
from tests.trainers.bandit import EOS_ID, PROMPTS, TOKENIZER, Bandit
from training.arguments.ppo import PPOArgs
from training.estimates.roofline import ADAM_BYTES, Machine
from training.trainers.ppo.rollout import RolloutCollector
from training.trainers.speed import Speed

SECONDS = {"time/generate_s": 1.0, "time/score_s": 2.0, "time/update_s": 4.0}
ARGS = PPOArgs(
    zero_stage=0,
    dtype="fp32",
    max_new_tokens=5,
    rollout_batch_size=len(PROMPTS),
    minibatch_size=len(PROMPTS),
    ppo_epochs=1,
)


@pytest.fixture
def parts(world, tmp_path):
    lm = gpt2(len(TOKENIZER), seed=1, bos_token_id=EOS_ID, eos_token_id=EOS_ID)
    bandit = Bandit(ARGS, world, write_lm(tmp_path, lm, TOKENIZER))
    rollout = RolloutCollector(ARGS, world, TOKENIZER, bandit.models).collect(1, PROMPTS, 1)
    speed = Speed(lm, torch.float32, world)
    speed.machine = Machine(read_bandwidth=1e30, matrix_rate=1e6)  # arithmetic alone
    return rollout, speed


def shares(parts, **changes):
    rollout, speed = parts
    return speed.ppo(rollout, replace(ARGS, **changes), SECONDS)


def test_a_phases_share_is_its_arithmetic_at_the_measured_rate_over_its_time(parts):
    rollout, speed = parts
    answers = sum(map(len, rollout.responses))
    trunk = speed.shape.count_forward_flops(rollout.lengths, 0) / 1e6
    head = 2 * answers * speed.shape.vocabulary * speed.shape.width / 1e6
    found = shares(parts)
    assert found["speed/score_roofline"] == pytest.approx((2 * trunk + head) / 2.0)
    assert found["speed/update_roofline"] == pytest.approx(3 * (2 * trunk + head) / 4.0)
    assert found["speed/tokens_per_s"] == pytest.approx(answers / 7.0)
    assert found["speed/update_tokens_per_s"] == pytest.approx(sum(rollout.lengths) / 4.0)
    phases = sum(
        found[f"speed/{name}_roofline"] * SECONDS[f"time/{name}_s"]
        for name in ("generate", "score", "update")
    )
    assert found["speed/roofline"] == pytest.approx(phases / 7.0)


@pytest.mark.parametrize(
    ("changes", "trunks", "heads"),
    [
        ({}, 2, 1),
        ({"ppo_epochs": 2}, 3, 1),  # the critic reads old values
        ({"old_logprobs": "recompute"}, 3, 2),
        ({"old_logprobs": "recompute", "ppo_epochs": 2}, 4, 2),
        ({"critic": "shared"}, 3, 1),
        ({"critic": "shared", "old_logprobs": "recompute"}, 3, 2),  # values come with log-probs
    ],
)
def test_scoring_counts_each_forward_that_the_flags_ask_for(parts, changes, trunks, heads):
    rollout, speed = parts
    trunk = speed.shape.count_forward_flops(rollout.lengths, 0) / 1e6
    answers = sum(map(len, rollout.responses))
    head = 2 * answers * speed.shape.vocabulary * speed.shape.width / 1e6
    found = shares(parts, **changes)["speed/score_roofline"]
    assert found == pytest.approx((trunks * trunk + heads * head) / 2.0)


def test_an_optimizer_step_reads_and_writes_its_state_once_for_each_model(parts):
    _, speed = parts
    speed.machine = Machine(read_bandwidth=1e6, matrix_rate=1e30)
    a_pass = ADAM_BYTES * speed.shape.active_parameters / 1e6
    assert shares(parts)["speed/update_roofline"] == pytest.approx(2 * a_pass / 4.0)
    shared = shares(parts, critic="shared", ppo_epochs=3)
    assert shared["speed/update_roofline"] == pytest.approx(3 * a_pass / 4.0)


def test_a_training_step_counts_real_tokens(parts):
    _, speed = parts
    found = speed.training([4, 6], 3, 2.0)
    expected = 3 * speed.shape.count_forward_flops([4, 6], 3) / 1e6 / 2.0
    assert found["speed/roofline"] == pytest.approx(expected)
    assert found["speed/tokens_per_s"] == 5.0
