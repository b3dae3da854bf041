"""PPO where its answer is known: a response of one token, and a reward for each token.

The policy that maximises E[R] - kl_coef * KL(policy || ref) is softmax(ref logits + R / kl_coef).
EOS is one of the tokens, so it is right only if EOS is learnt like any other.
"""

import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_models import EOS, build_tokenizer, gpt2, scalar_model, write_lm
from training.arguments.ppo import PPOArgs
from training.data.encode import EncodedPrompt
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import Sampling
from training.models.loading import load_causal_lm
from training.models.policy import Policy
from training.models.scalar import ScalarSettings
from training.runtime import distributed, engine, optim
from training.runtime.distributed import World
from training.trainers.ppo import PPOTrainer, ppo_schedule
from training.trainers.ppo_setup import Models
from training.trainers.rollout import RolloutCollector, make_experience

TOKENIZER = build_tokenizer([*(f"w{n}" for n in range(6)), "<unk>", EOS])
EOS_ID, PAD_ID = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id
REWARDS = torch.tensor([0.5, -0.6, 0.2, 0.9, -1.0, 0.1, -0.3, 0.8, 50.0])  # the last is PAD's
PROMPTS = [EncodedPrompt(n, ids, "", {}) for n, ids in enumerate([[0, 1], [2, 3, 4], [5]])]


class KnownReward(nn.Module):
    """Reads the reward of the token at each position."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return REWARDS[input_ids]


@pytest.fixture
def world(monkeypatch) -> Iterator[World]:
    """One rank, in this process; what joining changes in it is put back."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_PORT": port}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with torch.random.fork_rng(), distributed.session(PPOArgs()) as joined:
        yield joined
    root.handlers[:] = handlers
    root.setLevel(level)


@dataclass
class Bandit:
    """The parts of stage 3 around a tiny actor and a known reward."""

    args: PPOArgs
    world: World
    folder: str
    models: Models = field(init=False)

    def __post_init__(self) -> None:
        actor, self.ref = self._policy(), self._policy()
        critic = scalar_model(self.folder, ScalarSettings())
        adamw = partial(optim.adamw, args=self.args)
        self.models = Models(
            actor=engine.trainable(
                actor, self.args, self.world, partial(adamw, lr=self.args.actor_lr)
            ),
            critic=engine.trainable(
                critic, self.args, self.world, partial(adamw, lr=self.args.critic_lr)
            ),
            ref=engine.frozen(self.ref, self.args, self.world),
            reward_model=engine.frozen(KnownReward(), self.args, self.world),
            hybrid=HybridEngine(
                actor.lm,
                Sampling(max_new_tokens=1, temperature=self.args.temperature),
                eos_id=EOS_ID,
                pad_id=PAD_ID,
                device=self.world.device,
                dtype=torch.float32,
                batch_size=self.args.generation_batch_size,
            ),
        )

    def _policy(self) -> Policy:
        lm = load_causal_lm(self.folder, TOKENIZER, device=self.world.device, dropout=0.0)
        return Policy(lm, pad_id=PAD_ID, compute_dtype=torch.float32)

    def train(self) -> list[dict[str, float]]:
        collector = RolloutCollector(self.args, self.world, TOKENIZER, self.models)
        trainer = PPOTrainer(
            self.args,
            self.world,
            self.models.actor,
            self.models.critic,
            ppo_schedule(self.args, self.world),
            PAD_ID,
        )
        history = []
        for step in range(1, self.args.max_steps + 1):
            rollout = collector.collect(step, PROMPTS, self.args.samples_per_prompt)
            experience = make_experience(rollout, self.args, kl_coef=trainer.kl_coef)
            history.append(trainer.update(step, experience))
        return history

    @torch.no_grad()
    def next_token_logits(self, policy: Policy) -> Tensor:  # [prompts, V], PAD impossible
        policy.eval()
        rows = [
            policy.lm(input_ids=torch.tensor([prompt.input_ids])).logits[0, -1]
            for prompt in PROMPTS
        ]
        scaled = torch.stack(rows) / self.args.temperature
        scaled[:, PAD_ID] = -torch.inf
        return scaled


def distances(policy: Tensor, other: Tensor) -> Tensor:  # [prompts]
    """Total variation between the distributions of each prompt."""
    return (policy.softmax(-1) - other.softmax(-1)).abs().sum(-1) / 2


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_ppo_converges_to_the_policy_that_is_known_to_be_best(world, tmp_path, temperature):
    lm = gpt2(len(TOKENIZER), seed=1, bos_token_id=EOS_ID, eos_token_id=EOS_ID)
    args = PPOArgs(
        zero_stage=0,
        dtype="fp32",
        temperature=temperature,
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
