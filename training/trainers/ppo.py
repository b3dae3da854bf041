"""One step of stage 3: epochs x minibatches x micro-batches of updates over one rollout."""

import random
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.data.batches import plan_step
from training.objectives.kl import next_kl_coef
from training.objectives.ppo import PolicyLoss, explained_variance, policy_loss, value_loss
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.tensors import (
    masked_mean,
    masked_moments,
    mean_and_variance,
    predicting_positions,
    scatter_to_mask,
    whiten,
)
from training.trainers.collate import collate_responses
from training.trainers.rollout import Experience, Rollout
from training.trainers.schedule import Schedule


class PPOTrainer:
    """Updates the actor and the critic, and steers the KL coefficient.

    `experience` tensors are whole on every rank; a rank takes its share of each minibatch, so
    that the update does not depend on how many ranks there are.
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

    def update(self, step: int, experience: Experience) -> dict[str, float]:
        """All optimizer steps of one PPO step; its metrics."""
        started = time.monotonic()
        self._actor.module.train()
        self._critic.module.train()
        stats = []
        for epoch in range(self._args.ppo_epochs):
            order = list(range(len(experience.lengths)))
            random.Random(f"{self._args.seed}:{step}:{epoch}").shuffle(order)
            for start in range(0, len(order), self._args.minibatch_size):
                rows = order[start : start + self._args.minibatch_size]
                stats.append(self._minibatch(rows, experience))
        metrics = {**rollout_metrics(experience), **self._update_metrics(stats)}
        metrics["kl/coef"] = self.kl_coef
        if self._args.kl_controller == "adaptive":
            self.kl_coef = next_kl_coef(
                self.kl_coef,
                kl=metrics["kl/ref"],
                kl_target=self._args.kl_target,
                episodes=len(experience.lengths),
                kl_horizon=self._args.kl_horizon,
            )
        metrics["time/update_s"] = time.monotonic() - started
        return metrics

    def _minibatch(self, rows: Sequence[int], experience: Experience) -> dict[str, float]:
        """One optimizer step of the actor and of the critic over these rows of the experience."""
        rollout = experience.rollout
        token_count = int(rollout.mask[rows].sum())
        advantages = experience.advantages
        if self._args.advantage_whitening == "minibatch":
            mask = rollout.mask[rows]
            mean, variance = mean_and_variance(masked_moments(advantages[rows], mask))
            advantages = whiten(advantages, rollout.mask, mean=mean, variance=variance)
        plan = plan_step(
            rows,
            experience.lengths,
            token_budget=self._args.micro_batch_tokens,
            rank=self._world.rank,
            size=self._world.size,
        )
        sums = torch.zeros(5, dtype=torch.float64)
        extremes = torch.tensor([-torch.inf, -torch.inf], dtype=torch.float64)  # max, -min
        for index, part in enumerate(plan):
            part_sums, part_extremes = self._micro_batch(
                part, experience, advantages, token_count, last=index == len(plan) - 1
            )
            sums += part_sums
            extremes = torch.maximum(extremes, part_extremes)
        lr_scale = self._schedule.start_step()
        norms = self._actor.step(lr_scale), self._critic.step(lr_scale)
        self._schedule.end_step()
        sums = self._world.all_sum(sums.to(self._world.device)).cpu()
        extremes = self._world.all_max(extremes.to(self._world.device)).cpu()
        return {
            "policy/loss": sums[0].item(),
            "policy/clip_fraction": sums[1].item() / token_count,
            "policy/kl": sums[2].item() / token_count,
            "value/loss": sums[3].item(),
            "value/clip_fraction": sums[4].item() / token_count,
            "policy/ratio_max": extremes[0].item(),
            "policy/ratio_min": -extremes[1].item(),
            "policy/grad_norm": norms[0],
            "value/grad_norm": norms[1],
            "optim/lr_scale": lr_scale,
        }

    def _micro_batch(
        self,
        rows: Sequence[int],
        experience: Experience,
        advantages: Tensor,
        token_count: int,
        *,
        last: bool,
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward of both models; sums [5] and extremes [2] on the host."""
        rollout, device = experience.rollout, self._world.device
        width = max((len(rollout.responses[row]) for row in rows), default=1)

        def part(values: Tensor) -> Tensor:  # [B, T] of the rollout -> [b, t] of these rows
            if not rows:
                return torch.zeros(1, width, dtype=values.dtype, device=device)
            return values[list(rows), :width].to(device)

        batch = collate_responses(
            [rollout.prompts[row] for row in rows],
            [rollout.responses[row] for row in rows],
            pad_id=self._pad_id,
            device=device,
        )
        mask = part(rollout.mask)
        logprobs, _ = self._actor(
            batch.input_ids, batch.attention_mask, batch.target_mask, self._args.temperature
        )
        policy = policy_loss(
            scatter_to_mask(logprobs, mask),
            part(rollout.logprobs),
            part(advantages),
            mask,
            clip_range=self._args.clip_range,
            token_count=token_count,
        )
        self._actor.backward(policy.loss, last=last)
        readings = self._critic(batch.input_ids, batch.attention_mask)
        packed = readings[predicting_positions(batch.target_mask)]
        value = value_loss(
            scatter_to_mask(packed, mask),
            part(rollout.values),
            part(experience.returns),
            mask,
            value_clip_range=self._args.value_clip_range,
            token_count=token_count,
        )
        self._critic.backward(value.loss, last=last)
        return _sums(policy, value.loss, value.clipped_tokens), _extremes(policy, bool(rows))

    def _update_metrics(self, stats: Sequence[dict[str, float]]) -> dict[str, float]:
        """Means over the optimizer steps, extremes of the extremes, and the very first ratio."""
        metrics = {name: sum(s[name] for s in stats) / len(stats) for name in stats[0]}
        metrics["policy/ratio_max"] = max(s["policy/ratio_max"] for s in stats)
        metrics["policy/ratio_min"] = min(s["policy/ratio_min"] for s in stats)
        metrics["policy/first_clip_fraction"] = stats[0]["policy/clip_fraction"]
        metrics["policy/first_ratio_error"] = max(
            stats[0]["policy/ratio_max"] - 1.0, 1.0 - stats[0]["policy/ratio_min"]
        )
        return metrics


def _sums(policy: PolicyLoss, value: Tensor, value_clipped: Tensor) -> Tensor:
    sums = [policy.loss, policy.clipped_tokens, policy.kl_sum, value, value_clipped]
    return torch.stack([entry.detach().double() for entry in sums]).cpu()


def _extremes(policy: PolicyLoss, has_rows: bool) -> Tensor:
    if not has_rows:
        return torch.tensor([-torch.inf, -torch.inf], dtype=torch.float64)
    return torch.stack([policy.ratio_max, -policy.ratio_min]).double().cpu()


def rollout_metrics(experience: Experience) -> dict[str, float]:
    """What the rollout itself says: score, KL to ref, entropy, lengths, endings, the critic."""
    rollout = experience.rollout
    return {
        **sample_metrics(rollout),
        "rewards/mean": experience.rewards.sum(dim=1).mean().item(),
        "advantages/std": masked_moments_std(experience.advantages, rollout.mask),
        "value/mean": masked_mean(rollout.values, rollout.mask).item(),
        "value/explained_variance": explained_variance(
            rollout.values, experience.returns, rollout.mask
        ).item(),
    }


def sample_metrics(rollout: Rollout) -> dict[str, float]:
    """Metrics of sampled responses alone, in training and in evaluation."""
    log_ratio = (rollout.logprobs - rollout.ref_logprobs).masked_fill(~rollout.mask, 0.0)
    lengths = rollout.mask.sum(dim=1).double()
    return {
        "score/mean": rollout.scores.mean().item(),
        "score/std": rollout.scores.std(correction=0).item(),
        "kl/ref": log_ratio.sum(dim=1).mean().item(),
        "policy/entropy": masked_mean(rollout.entropies, rollout.mask).item(),
        "response/length": lengths.mean().item(),
        "response/eos_rate": rollout.has_eos.double().mean().item(),
    }


def masked_moments_std(values: Tensor, mask: Tensor) -> float:
    """Biased standard deviation of the counting entries."""
    std: float = mean_and_variance(masked_moments(values, mask))[1] ** 0.5
    return std


def ppo_schedule(args: PPOArgs, world: World) -> Schedule:
    """Over all optimizer steps of all PPO steps."""
    minibatches = args.sequences_per_step // args.minibatch_size
    return Schedule(args, world, total_steps=args.max_steps * args.ppo_epochs * minibatches)
