"""One step of stage 3: epochs x minibatches x micro-batches of updates over one rollout."""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.data.batches import plan_step
from training.objectives.kl import next_kl_coef
from training.objectives.ppo import PolicyLoss, compute_gae, policy_loss, value_loss
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.tensors import (
    masked_moments,
    mean_and_variance,
    predicting_positions,
    scatter_to_mask,
    whiten,
)
from training.trainers.collate import TokenBatch, collate_responses
from training.trainers.experience import Experience, Rollout, make_experience, token_rewards
from training.trainers.ppo_metrics import UpdateSums, rollout_metrics, update_metrics
from training.trainers.schedule import Schedule


class PPOTrainer:
    """Updates the actor and the critic, and steers the KL coefficient.

    A rollout is whole on every rank; a rank takes its share of each minibatch, so that the update
    does not depend on how many ranks there are.
    """

    def __init__(
        self,
        args: PPOArgs,
        world: World,
        actor: TrainingEngine,
        critic: TrainingEngine,
        schedule: Schedule,
        pad_id: int,
    ) -> None:
        self._args = args
        self._world = world
        self._actor, self._critic = actor, critic
        self._schedule = schedule
        self._pad_id = pad_id
        self.kl_coef = args.kl_coef

    def update(self, step: int, rollout: Rollout) -> dict[str, float]:
        """All optimizer steps of one PPO step; its metrics."""
        started = time.monotonic()
        self._actor.module.train()
        self._critic.module.train()
        rewards = token_rewards(rollout, self._args, kl_coef=self.kl_coef)
        if self._args.is_single_update:
            experience, steps = self._single_update(rollout, rewards)
        else:
            experience = make_experience(rollout, self._args, rewards, rollout.values)
            steps = self._epochs(step, experience)
        metrics = {**rollout_metrics(experience), **update_metrics(steps)}
        metrics["kl/coef"] = self.kl_coef
        if self._args.kl_controller == "adaptive":
            self.kl_coef = next_kl_coef(
                self.kl_coef,
                kl=metrics["kl/ref"],
                kl_target=self._args.kl_target,
                episodes=len(rollout.responses),
                kl_horizon=self._args.kl_horizon,
            )
        metrics["time/update_s"] = time.monotonic() - started
        return metrics

    def _epochs(self, step: int, experience: Experience) -> list[dict[str, float]]:
        steps = []
        for epoch in range(self._args.ppo_epochs):
            order = list(range(len(experience.rollout.responses)))
            random.Random(f"{self._args.seed}:{step}:{epoch}").shuffle(order)
            for start in range(0, len(order), self._args.minibatch_size):
                rows = order[start : start + self._args.minibatch_size]
                sums = UpdateSums(self._world, int(experience.rollout.mask[rows].sum()))
                self._train_critic(rows, experience, sums)
                self._train_actor(rows, experience, sums)
                steps.append(self._optimizer_step(sums))
        return steps

    def _single_update(
        self, rollout: Rollout, rewards: Tensor
    ) -> tuple[Experience, list[dict[str, float]]]:
        """One optimizer step on the whole rollout: its forwards are the old values and log-probs.

        A response's returns need no values but its own, so the critic's forward serves both.
        """
        rows = range(len(rollout.responses))
        unread = Experience(rollout, rewards, rewards, rewards, rewards)
        sums = UpdateSums(self._world, int(rollout.mask.sum()))
        values = self._train_critic(rows, unread, sums)
        values = self._world.all_sum(values.to(self._world.device)).cpu()
        experience = make_experience(rollout, self._args, rewards, values)
        self._train_actor(rows, experience, sums)
        return experience, [self._optimizer_step(sums)]

    def _optimizer_step(self, sums: UpdateSums) -> dict[str, float]:
        lr_scale = self._schedule.start_step()
        norms = self._actor.step(lr_scale), self._critic.step(lr_scale)
        self._schedule.end_step()
        return {
            **sums.metrics(),
            "policy/grad_norm": norms[0],
            "value/grad_norm": norms[1],
            "optim/lr_scale": lr_scale,
        }

    def _train_actor(self, rows: Sequence[int], experience: Experience, sums: UpdateSums) -> None:
        """Forward and backward of the actor over these rows, micro-batch by micro-batch."""
        args, rollout = self._args, experience.rollout
        advantages = experience.advantages
        if args.advantage_whitening == "minibatch":
            mask = rollout.mask[list(rows)]
            mean, variance = mean_and_variance(masked_moments(advantages[list(rows)], mask))
            advantages = whiten(advantages, rollout.mask, mean=mean, variance=variance)
        plan = self._plan(rows, rollout)
        for index, part in enumerate(plan):
            batch, mask = self._batch(part, rollout)
            rollout_logprobs = self._rows(rollout.logprobs, part, mask)[mask]
            of_tokens = self._rows(advantages, part, mask)[mask]

            objective = partial(self._policy_loss, rollout_logprobs, of_tokens, sums.token_count)
            loss, logprobs = self._actor(
                batch.input_ids,
                batch.attention_mask,
                batch.target_mask,
                args.temperature,
                token_loss=partial(_loss, objective),
            )
            self._actor.backward(loss, last=index == len(plan) - 1)
            if part:
                found = objective(logprobs, slice(0, len(logprobs)))
                sums.add_policy(found, (logprobs - rollout_logprobs).abs().sum())

    def _policy_loss(
        self,
        rollout_logprobs: Tensor,  # [N]
        advantages: Tensor,  # [N]
        token_count: int,
        logprobs: Tensor,  # [n], of those that `where` says
        where: slice,
    ) -> PolicyLoss:
        is_old = self._args.is_single_update  # nothing has been learnt since they were drawn
        old = logprobs.detach() if is_old else rollout_logprobs[where]
        return policy_loss(
            logprobs,
            old,
            advantages[where],
            torch.ones_like(old, dtype=torch.bool),
            clip_range=self._args.clip_range,
            token_count=token_count,
        )

    def _train_critic(
        self, rows: Sequence[int], experience: Experience, sums: UpdateSums
    ) -> Tensor:
        """The same of the critic; the values [B, T] that it read of this rank's rows, else 0."""
        args, rollout = self._args, experience.rollout
        read = torch.zeros(rollout.mask.shape)
        plan = self._plan(rows, rollout)
        for index, part in enumerate(plan):
            batch, mask = self._batch(part, rollout)
            readings = self._critic(batch.input_ids, batch.attention_mask)
            values = scatter_to_mask(readings[predicting_positions(batch.target_mask)], mask)
            old_values = self._rows(rollout.values, part, mask)
            returns = self._rows(experience.returns, part, mask)
            if args.is_single_update:
                old_values = values.detach()
                rewards = self._rows(experience.rewards, part, mask)
                _, returns = compute_gae(
                    rewards, old_values, mask, gamma=args.gamma, gae_lambda=args.gae_lambda
                )
            value = value_loss(
                values,
                old_values,
                returns,
                mask,
                value_clip_range=args.value_clip_range,
                token_count=sums.token_count,
            )
            self._critic.backward(value.loss, last=index == len(plan) - 1)
            if part:
                sums.add_value(value)
                read[list(part), : mask.shape[1]] = values.detach().cpu()
        return read

    def _plan(self, rows: Sequence[int], rollout: Rollout) -> list[list[int]]:
        return plan_step(
            rows,
            rollout.lengths,
            token_budget=self._args.micro_batch_tokens,
            rank=self._world.rank,
            size=self._world.size,
        )

    def _batch(self, rows: Sequence[int], rollout: Rollout) -> tuple[TokenBatch, Tensor]:
        """The sequences of these rows, and their mask of response tokens [b, t]."""
        batch = collate_responses(
            [rollout.prompts[row] for row in rows],
            [rollout.responses[row] for row in rows],
            pad_id=self._pad_id,
            device=self._world.device,
        )
        width = max((len(rollout.responses[row]) for row in rows), default=1)
        if not rows:
            return batch, torch.zeros(1, width, dtype=torch.bool, device=self._world.device)
        return batch, rollout.mask[list(rows), :width].to(self._world.device)

    def _rows(self, values: Tensor, rows: Sequence[int], mask: Tensor) -> Tensor:
        """These rows [b, t] of a tensor [B, T] of the rollout, on the device."""
        if not rows:
            return torch.zeros(mask.shape, dtype=values.dtype, device=mask.device)
        return values[list(rows), : mask.shape[1]].to(mask.device)


def _loss(
    objective: Callable[[Tensor, slice], PolicyLoss], logprobs: Tensor, where: slice
) -> Tensor:
    """What `head_loss` differentiates, without what is watched beside it."""
    return objective(logprobs, where).loss


def ppo_schedule(args: PPOArgs, world: World) -> Schedule:
    """Over all optimizer steps of all PPO steps."""
    minibatches = args.sequences_per_step // args.minibatch_size
    return Schedule(args, world, total_steps=args.max_steps * args.ppo_epochs * minibatches)
