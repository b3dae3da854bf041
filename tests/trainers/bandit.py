"""The parts of stage 3 around a tiny actor and a known reward."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from tests.tiny_models import EOS, build_tokenizer, scalar_model
from training.arguments.ppo import PPOArgs
from training.data.encode import EncodedPrompt
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import Sampling
from training.models.loading import load_causal_lm
from training.models.lora import add_lora
from training.models.policy import ActorCritic, Policy
from training.models.scalar import ScalarSettings
from training.runtime import engine, optim
from training.runtime.distributed import World
from training.trainers.ppo.setup import Models, make_actor_optimizer
from training.trainers.ppo.update import PPOTrainer

TOKENIZER = build_tokenizer([*(f"w{n}" for n in range(6)), "<unk>", EOS])
EOS_ID, PAD_ID = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id
REWARDS = torch.tensor([0.5, -0.6, 0.2, 0.9, -1.0, 0.1, -0.3, 0.8, 50.0])  # the last is PAD's
PROMPTS = [EncodedPrompt(n, ids, "", {}) for n, ids in enumerate([[0, 1], [2, 3, 4], [5]])]


class KnownReward(nn.Module):
    """Reads the reward of the token at each position."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return REWARDS[input_ids]


@dataclass
class Bandit:
    """A policy, its critic, and `KnownReward`, on one rank."""

    args: PPOArgs
    world: World
    folder: str
    models: Models = field(init=False)

    def __post_init__(self) -> None:
        is_shared = self.args.critic == "shared"
        actor, self.ref = self._policy(ActorCritic if is_shared else Policy), self._policy()
        add_lora(actor.lm, self.args)
        critic = None
        if not is_shared:
            scalar = scalar_model(self.folder, ScalarSettings())
            add_lora(scalar.backbone, self.args)
            critic = engine.wrap_trainable(
                scalar,
                self.args,
                self.world,
                partial(optim.make_adamw, args=self.args, lr=self.args.critic_lr),
            )
        self.models = Models(
            actor=engine.wrap_trainable(
                actor, self.args, self.world, partial(make_actor_optimizer, args=self.args)
            ),
            critic=critic,
            ref=engine.wrap_frozen(self.ref, self.args, self.world),
            reward_model=engine.wrap_frozen(KnownReward(), self.args, self.world),
            hybrid=HybridEngine(
                actor.lm,
                Sampling(
                    max_new_tokens=self.args.max_new_tokens, temperature=self.args.temperature
                ),
                eos_id=EOS_ID,
                pad_id=PAD_ID,
                device=self.world.device,
                dtype=torch.float32,
                batch_size=self.args.generation_batch_size,
            ),
        )

    def _policy(self, kind: type[Policy] = Policy) -> Policy:
        lm = load_causal_lm(self.folder, TOKENIZER, device=self.world.device, dropout=0.0)
        return kind(lm, pad_id=PAD_ID, compute_dtype=torch.float32)

    def train(self) -> list[dict[str, float]]:
        trainer = PPOTrainer(self.args, self.world, TOKENIZER, self.models)
        steps = range(1, self.args.max_steps + 1)
        return [trainer.train_step(step, PROMPTS)[1] for step in steps]

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
