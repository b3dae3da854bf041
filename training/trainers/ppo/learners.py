"""Losses, gradients and optimizer steps of PPO, with a separate critic or a shared trunk."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.inference import read_token_values
from training.objectives.ppo import PolicyLoss, compute_gae, policy_loss, value_loss
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.tensors import scatter_to_mask
from training.trainers.guards import step_together
from training.trainers.ppo.experience import Experience, Rollout
from training.trainers.ppo.metrics import UpdateSums
from training.trainers.ppo.minibatch import ResponseBatch, iterate_micro_batches
from training.trainers.ppo.setup import Models

ValueTargets = tuple[Tensor, Tensor]  # old values and returns [b, t] of a micro-batch
FindTargets = Callable[[ResponseBatch, Tensor], ValueTargets]  # given the values [b, t] read in it
GRADIENT_NORMS = {"actor": "policy/grad_norm", "critic": "value/grad_norm"}


class Learner(ABC):
    """Accumulates the gradients of a minibatch and its metrics, then steps.

    A rank computes its share of each minibatch; `token_count` is of the whole minibatch.
    """

    def __init__(self, args: PPOArgs, world: World, models: Models, pad_id: int) -> None:
        self._args, self._world = args, world
        self._list_batches = partial(iterate_micro_batches, args=args, world=world, pad_id=pad_id)
        self._engines: Mapping[str, TrainingEngine] = models.trained
        self._sums = UpdateSums(world)  # beside the gradients of the next optimizer step

    def start(self) -> None:
        """Put the models into training mode."""
        for engine in self._engines.values():
            engine.module.train()

    def find_values(self, rollout: Rollout, rewards: Tensor) -> Tensor:
        """Old values [B, T] of a rollout; may train the critic for them, to rewards [B, T]."""
        return rollout.values

    @abstractmethod
    def backward(self, rows: Sequence[int], experience: Experience, token_count: int) -> None:
        """Add the gradients of both losses over these rows of the rollout."""

    def step(self, lr_scale: float, *, token_count: int) -> dict[str, float]:
        """Step all models; returns the metrics. Raises `SkipStep` where a number is not finite."""
        sums, self._sums = self._sums, UpdateSums(self._world)
        metrics = sums.compute_metrics(token_count)
        norms = step_together(
            self._engines,
            lr_scale,
            losses={f"{name} loss": metrics[f"{name}/loss"] for name in ("policy", "value")},
            readings=sums.readings,
            world=self._world,
        )
        named = {GRADIENT_NORMS[name]: norm for name, norm in norms.items()}
        return {**metrics, **named, "optim/lr_scale": lr_scale}

    def _policy_loss(
        self, batch: ResponseBatch, experience: Experience, token_count: int
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Run the actor. Returns its loss and, from a shared trunk, values [N] in a sequence."""
        args = self._args
        sampled = batch.pick(experience.rollout.logprobs)[batch.mask]  # [N]
        advantages = batch.pick(experience.advantages)[batch.mask]  # [N]

        def compute_loss(logprobs: Tensor, where: slice) -> PolicyLoss:
            # Before the only update of a rollout, the actor is the old policy.
            old = logprobs.detach() if args.is_single_update else sampled[where]
            return policy_loss(
                logprobs,
                old,
                advantages[where],
                torch.ones_like(old, dtype=torch.bool),
                clip_range=args.clip_range,
                token_count=token_count,
            )

        loss, logprobs, *others = self._engines["actor"](
            *batch.tokens.inputs,
            args.temperature,
            token_loss=lambda logprobs, where: compute_loss(logprobs, where).loss,
        )
        # Once more for the metrics: the LM head sums the loss in chunks, which rounds differently.
        whole = compute_loss(logprobs, slice(0, len(logprobs)))
        self._sums.add_policy(whole, logprobs, sampled, batch)
        return loss, others

    def _value_loss(
        self, batch: ResponseBatch, values: Tensor, targets: ValueTargets, token_count: int
    ) -> Tensor:
        """Compute the loss of values [b, t]."""
        value = value_loss(
            values,
            *targets,
            batch.mask,
            value_clip_range=self._args.value_clip_range,
            token_count=token_count,
        )
        self._sums.add_value(value, values, batch)
        return value.loss


class SeparateLearner(Learner):
    """Actor and critic are two models with an optimizer each."""

    def find_values(self, rollout: Rollout, rewards: Tensor) -> Tensor:
        """Old values [B, T]; with one optimizer step per rollout, read while the critic is trained.

        A response's returns depend on its own values alone, so one forward serves both.
        """
        args = self._args
        if not args.reads_values_in_update:
            return rollout.values

        def find_targets(batch: ResponseBatch, values: Tensor) -> ValueTargets:
            inputs = batch.pick(rewards), values, batch.mask
            return values, compute_gae(*inputs, gamma=args.gamma, gae_lambda=args.gae_lambda)[1]

        rows = range(len(rollout.responses))
        values = self._train_critic(rows, rollout, find_targets, int(rollout.mask.sum()))
        return self._world.sum_over_ranks(values.to(self._world.device)).cpu()

    def backward(self, rows: Sequence[int], experience: Experience, token_count: int) -> None:
        def find_targets(batch: ResponseBatch, values: Tensor) -> ValueTargets:
            return batch.pick(experience.values), batch.pick(experience.returns)

        if not self._args.reads_values_in_update:  # else `find_values` has trained the critic
            self._train_critic(rows, experience.rollout, find_targets, token_count)
        for batch in self._list_batches(experience.rollout, rows):
            loss, _ = self._policy_loss(batch, experience, token_count)
            self._engines["actor"].backward(loss, last=batch.is_last)

    def _train_critic(
        self, rows: Sequence[int], rollout: Rollout, find_targets: FindTargets, token_count: int
    ) -> Tensor:
        """Run the critic forward and backward; returns values [B, T], 0 for other ranks' rows."""
        critic, all_values = self._engines["critic"], torch.zeros(rollout.mask.shape)
        for batch in self._list_batches(rollout, rows):
            values = scatter_to_mask(read_token_values(critic, batch.tokens), batch.mask)
            targets = find_targets(batch, values.detach())
            loss = self._value_loss(batch, values, targets, token_count)
            critic.backward(loss, last=batch.is_last)
            if batch.rows:
                all_values[batch.rows, : batch.mask.shape[1]] = values.detach().cpu()
        return all_values


class SharedLearner(Learner):
    """One model with two heads, one loss (policy + vf_coef x value) and one optimizer."""

    def backward(self, rows: Sequence[int], experience: Experience, token_count: int) -> None:
        for batch in self._list_batches(experience.rollout, rows):
            loss, (packed,) = self._policy_loss(batch, experience, token_count)
            values = scatter_to_mask(packed, batch.mask)
            targets = batch.pick(experience.values), batch.pick(experience.returns)
            critic_loss = self._value_loss(batch, values, targets, token_count)
            loss = loss + self._args.vf_coef * critic_loss
            self._engines["actor"].backward(loss, last=batch.is_last)


def make_learner(args: PPOArgs, world: World, models: Models, pad_id: int) -> Learner:
    """The learner that --critic names."""
    learner = SharedLearner if models.critic is None else SeparateLearner
    return learner(args, world, models, pad_id)
