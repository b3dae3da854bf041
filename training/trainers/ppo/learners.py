"""Forward and backward of a PPO minibatch: with a critic of its own, or on the actor's trunk."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.inference import scalar_values
from training.objectives.ppo import PolicyLoss, ValueLoss, policy_loss, value_loss
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.tensors import (
    masked_moments,
    mean_and_variance,
    scatter_to_mask,
    whiten,
)
from training.trainers.ppo.experience import Experience, Rollout, prompt_name
from training.trainers.ppo.metrics import UpdateSums
from training.trainers.ppo.minibatch import MicroBatch, minibatch
from training.trainers.ppo.setup import Models

# From a micro-batch and the values [b, t] read in it to its old values and returns, [b, t] each.
ValueTargets = Callable[[MicroBatch, Tensor], tuple[Tensor, Tensor]]
Objective = Callable[[Tensor, slice], PolicyLoss]


class Learner(Protocol):
    """What makes gradients of an experience and steps."""

    def start(self) -> None:
        """Put the models into training mode."""

    def learn(self, rows: Sequence[int], experience: Experience, sums: UpdateSums) -> None:
        """Add up the gradients of both losses over these rows of the rollout."""

    @property
    def engines(self) -> dict[str, TrainingEngine]:
        """What steps, by name."""


def learner_of(args: PPOArgs, world: World, models: Models, pad_id: int) -> Learner:
    """The learner that --critic names."""
    if models.critic is None:
        return SharedLearner(args, world, models.actor, pad_id)
    return SeparateLearner(args, world, models.actor, models.critic, pad_id)


class SeparateLearner:
    """Actor and critic are two models with an optimizer each."""

    def __init__(
        self,
        args: PPOArgs,
        world: World,
        actor: TrainingEngine,
        critic: TrainingEngine,
        pad_id: int,
    ) -> None:
        self._args, self._world, self._pad_id = args, world, pad_id
        self._actor, self._critic = actor, critic

    def start(self) -> None:
        self._actor.module.train()
        self._critic.module.train()

    def learn(self, rows: Sequence[int], experience: Experience, sums: UpdateSums) -> None:
        self.train_critic(rows, experience.rollout, partial(_stored_targets, experience), sums)
        self.train_actor(rows, experience, sums)

    @property
    def engines(self) -> dict[str, TrainingEngine]:
        return {"actor": self._actor, "critic": self._critic}

    def train_actor(self, rows: Sequence[int], experience: Experience, sums: UpdateSums) -> None:
        """Forward and backward of the actor, micro-batch by micro-batch."""
        args, rollout = self._args, experience.rollout
        advantages = minibatch_advantages(experience, rows, args)
        for batch in minibatch(rollout, rows, args, self._world, self._pad_id):
            objective = policy_objective(batch, rollout, advantages, args, sums.token_count)
            loss, logprobs = self._actor(
                batch.tokens.input_ids,
                batch.tokens.attention_mask,
                batch.tokens.target_mask,
                args.temperature,
                token_loss=partial(_loss, objective),
            )
            self._actor.backward(loss, last=batch.is_last)
            _add_policy(sums, batch, rollout, objective, logprobs)

    def train_critic(
        self, rows: Sequence[int], rollout: Rollout, targets: ValueTargets, sums: UpdateSums
    ) -> Tensor:
        """The same of the critic; the values [B, T] that it read of this rank's rows, else 0."""
        read = torch.zeros(rollout.mask.shape)
        for batch in minibatch(rollout, rows, self._args, self._world, self._pad_id):
            values = scatter_to_mask(scalar_values(self._critic, batch.tokens), batch.mask)
            old_values, returns = targets(batch, values.detach())
            value = value_loss(
                values,
                old_values,
                returns,
                batch.mask,
                value_clip_range=self._args.value_clip_range,
                token_count=sums.token_count,
            )
            self._critic.backward(value.loss, last=batch.is_last)
            if batch.rows:
                _add_value(sums, batch, rollout, value, values)
                read[batch.rows, : batch.mask.shape[1]] = values.detach().cpu()
        return read


class SharedLearner:
    """One model with two heads, one loss (policy + vf_coef x value) and one optimizer."""

    def __init__(
        self, args: PPOArgs, world: World, actor_critic: TrainingEngine, pad_id: int
    ) -> None:
        self._args, self._world, self._pad_id = args, world, pad_id
        self._engine = actor_critic

    def start(self) -> None:
        self._engine.module.train()

    def learn(self, rows: Sequence[int], experience: Experience, sums: UpdateSums) -> None:
        args, rollout = self._args, experience.rollout
        advantages = minibatch_advantages(experience, rows, args)
        for batch in minibatch(rollout, rows, args, self._world, self._pad_id):
            objective = policy_objective(batch, rollout, advantages, args, sums.token_count)
            loss, logprobs, packed = self._engine(
                batch.tokens.input_ids,
                batch.tokens.attention_mask,
                batch.tokens.target_mask,
                args.temperature,
                token_loss=partial(_loss, objective),
            )
            old_values, returns = _stored_targets(experience, batch, packed)
            values = scatter_to_mask(packed, batch.mask)
            value = value_loss(
                values,
                old_values,
                returns,
                batch.mask,
                value_clip_range=args.value_clip_range,
                token_count=sums.token_count,
            )
            self._engine.backward(loss + args.vf_coef * value.loss, last=batch.is_last)
            _add_policy(sums, batch, rollout, objective, logprobs)
            if batch.rows:
                _add_value(sums, batch, rollout, value, values)

    @property
    def engines(self) -> dict[str, TrainingEngine]:
        return {"actor": self._engine}


def minibatch_advantages(experience: Experience, rows: Sequence[int], args: PPOArgs) -> Tensor:
    """Advantages [B, T], whitened over these rows if the flags say so."""
    advantages, mask = experience.advantages, experience.rollout.mask
    if args.advantage_whitening != "minibatch":
        return advantages
    moments = masked_moments(advantages[list(rows)], mask[list(rows)])
    mean, variance = mean_and_variance(moments)
    return whiten(advantages, mask, mean=mean, variance=variance)


def policy_objective(
    batch: MicroBatch, rollout: Rollout, advantages: Tensor, args: PPOArgs, token_count: int
) -> Objective:
    """From log-probs [n] of some of the micro-batch's N tokens, and which, to their loss."""
    rollout_logprobs = batch.pick(rollout.logprobs)[batch.mask]  # [N]
    of_tokens = batch.pick(advantages)[batch.mask]  # [N]

    def objective(logprobs: Tensor, where: slice) -> PolicyLoss:
        is_old = args.is_single_update  # nothing has been learnt since they were drawn
        old = logprobs.detach() if is_old else rollout_logprobs[where]
        return policy_loss(
            logprobs,
            old,
            of_tokens[where],
            torch.ones_like(old, dtype=torch.bool),
            clip_range=args.clip_range,
            token_count=token_count,
        )

    return objective


def _loss(objective: Objective, logprobs: Tensor, where: slice) -> Tensor:
    """What `head_loss` differentiates, without what is watched beside it."""
    return objective(logprobs, where).loss


def _add_policy(
    sums: UpdateSums, batch: MicroBatch, rollout: Rollout, objective: Objective, logprobs: Tensor
) -> None:
    if batch.rows:
        sums.readings.add("log-prob", logprobs, partial(_prompts, batch, rollout))
        gaps = logprobs - batch.pick(rollout.logprobs)[batch.mask]
        sums.add_policy(objective(logprobs, slice(0, len(logprobs))), gaps.abs().sum())


def _add_value(
    sums: UpdateSums, batch: MicroBatch, rollout: Rollout, value: ValueLoss, values: Tensor
) -> None:
    sums.readings.add("value", values[batch.mask], partial(_prompts, batch, rollout))
    sums.add_value(value)


def _prompts(batch: MicroBatch, rollout: Rollout) -> list[str]:
    """The prompt of each response token of the micro-batch, in their order."""
    rows = batch.mask.nonzero()[:, 0].tolist()
    return [prompt_name(rollout, batch.rows[row]) for row in rows]


def _stored_targets(
    experience: Experience, batch: MicroBatch, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Old values and returns as the experience has them."""
    return batch.pick(experience.rollout.values), batch.pick(experience.returns)
