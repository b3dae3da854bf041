"""PPO where its answer is known: a response of one token, and a reward for each token.

The policy that maximises E[R] - kl_coef * KL(policy || ref) is softmax(ref logits + R / kl_coef).
EOS is one of the tokens, so it is right only if EOS is learnt like any other.
"""

import pytest
from torch import Tensor

from tests.tiny_models import gpt2, write_lm
from tests.trainers.bandit import EOS_ID, PROMPTS, REWARDS, TOKENIZER, Bandit
from training.arguments.ppo import PPOArgs


def distances(policy: Tensor, other: Tensor) -> Tensor:  # [prompts]
    """Total variation between the distributions of each prompt."""
    return (policy.softmax(-1) - other.softmax(-1)).abs().sum(-1) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("temperature", "critic"), [(1.0, "separate"), (0.7, "separate"), (1.0, "shared")]
)
def test_ppo_converges_to_the_policy_that_is_known_to_be_best(world, tmp_path, temperature, critic):
    lm = gpt2(len(TOKENIZER), seed=1, bos_token_id=EOS_ID, eos_token_id=EOS_ID)
    args = PPOArgs(
        zero_stage=0,
        dtype="fp32",
        temperature=temperature,
        critic=critic,
        max_new_tokens=1,
        max_steps=80,
        rollout_batch_size=len(PROMPTS),
        samples_per_prompt=64,
        minibatch_size=len(PROMPTS) * 32,
        generation_batch_size=1024,
        ppo_epochs=2,
        actor_lr=3e-3,
        critic_lr=3e-3,
        warmup_ratio=0.0,
        kl_coef=0.5,
        score_clip=0.0,
        missing_eos="none",
        advantage_whitening="none",
        value_clip_range=0.0,
    )
    bandit = Bandit(args, world, write_lm(tmp_path, lm, TOKENIZER))
    actor, ref = bandit.models.actor.module, bandit.ref
    before = {name: tensor.clone() for name, tensor in ref.state_dict().items()}
    start = bandit.next_token_logits(ref)
    best = start + REWARDS / args.kl_coef
    assert distances(start, best).min() > 0.2

    history = bandit.train()

    assert history[0]["kl/ref"] == pytest.approx(0.0, abs=1e-5)
    assert history[0]["policy/first_ratio_error"] < 1e-5
    assert history[0]["policy/first_clip_fraction"] == 0
    assert distances(bandit.next_token_logits(actor), best).max() < 0.05
    assert all(tensor.equal(before[name]) for name, tensor in ref.state_dict().items())
