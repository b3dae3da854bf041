"""What a PPO step is watched by: the rollout's own numbers and those of its updates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.objectives.ppo import PolicyLoss, ValueLoss, explained_variance
from training.runtime.distributed import World
from training.tensors import masked_mean, masked_moments, mean_and_variance
from training.trainers.guards import Readings
from training.trainers.ppo.experience import Experience, Rollout


class UpdateSums:
    """Sums and extremes over the micro-batches of one optimizer step, kept on the device.

    `readings` are the log-probs and values that they are made of.
    """

    def __init__(self, world: World, token_count: int) -> None:
        self._world = world
        self.token_count = token_count
        self.readings = Readings()
        self._sums = torch.zeros(6, dtype=torch.float64, device=world.device)
        self._extremes = torch.full((2,), -torch.inf, dtype=torch.float64, device=world.device)

    def add_policy(self, policy: PolicyLoss, gap_sum: Tensor) -> None:
        """One micro-batch of the actor; `gap_sum` is by how much its log-probs are not the old."""
        entries = (policy.loss, policy.clipped_tokens, policy.kl_sum, gap_sum)
        self._sums[:4] += torch.stack([entry.detach().double() for entry in entries])
        extremes = torch.stack([policy.ratio_max, -policy.ratio_min]).double()
        self._extremes = torch.maximum(self._extremes, extremes)

    def add_value(self, value: ValueLoss) -> None:
        """One micro-batch of the critic."""
        entries = (value.loss, value.clipped_tokens)
        self._sums[4:] += torch.stack([entry.detach().double() for entry in entries])

    def metrics(self) -> dict[str, float]:
        """Over all ranks; shares are of the step's tokens."""
        sums = self._world.sum_over_ranks(self._sums).tolist()
        largest, smallest = self._world.max_over_ranks(self._extremes).tolist()
        shares = [total / self.token_count for total in sums]
        return {
            "policy/loss": sums[0],
            "policy/clip_fraction": shares[1],
            "policy/kl": shares[2],
            "policy/logprob_gap": shares[3],
            "value/loss": sums[4],
            "value/clip_fraction": shares[5],
            "policy/ratio_max": largest,
            "policy/ratio_min": -smallest,
        }


def update_metrics(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over the optimizer steps, extremes of the extremes, and the very first ratio."""
    if not steps:
        return {}  # all of them were left out
    first = steps[0]
    metrics = {name: sum(step[name] for step in steps) / len(steps) for name in first}
    metrics["policy/ratio_max"] = max(step["policy/ratio_max"] for step in steps)
    metrics["policy/ratio_min"] = min(step["policy/ratio_min"] for step in steps)
    metrics["policy/logprob_gap"] = first["policy/logprob_gap"]  # later ones are learning
    metrics["policy/first_clip_fraction"] = first["policy/clip_fraction"]
    metrics["policy/first_ratio_error"] = max(
        first["policy/ratio_max"] - 1.0, 1.0 - first["policy/ratio_min"]
    )
    return metrics


def rollout_metrics(experience: Experience) -> dict[str, float]:
    """What the rollout itself says: score, KL to ref, entropy, lengths, endings, the critic."""
    rollout, values = experience.rollout, experience.values
    return {
        **sample_metrics(rollout),
        "rewards/mean": experience.rewards.sum(dim=1).mean().item(),
        "advantages/std": _std(experience.advantages, rollout.mask),
        "value/mean": masked_mean(values, rollout.mask).item(),
        "value/explained_variance": explained_variance(
            values, experience.returns, rollout.mask
        ).item(),
    }


def sample_metrics(rollout: Rollout) -> dict[str, float]:
    """Metrics of sampled responses alone, in training and in evaluation."""
    log_ratio = (rollout.logprobs - rollout.ref_logprobs).masked_fill(~rollout.mask, 0.0)
    lengths = rollout.mask.sum(dim=1).double()
    spread = {"score/std": rollout.scores.std(correction=0).item()}  # a single score has none
    return {
        "score/mean": rollout.scores.mean().item(),
        **(spread if len(rollout.scores) > 1 else {}),
        "kl/ref": log_ratio.sum(dim=1).mean().item(),
        "policy/entropy": masked_mean(rollout.entropies, rollout.mask).item(),
        "response/length": lengths.mean().item(),
        "response/eos_rate": rollout.has_eos.double().mean().item(),
    }


def _std(values: Tensor, mask: Tensor) -> float:
    """Biased standard deviation of the counting entries."""
    std: float = mean_and_variance(masked_moments(values, mask))[1] ** 0.5
    return std
