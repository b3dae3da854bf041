"""Metrics of a PPO step: of the rollout itself and of its updates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.objectives.ppo import PolicyLoss, ValueLoss, explained_variance
from training.runtime.distributed import World
from training.tensors import masked_mean, masked_mean_and_variance
from training.trainers.guards import Readings
from training.trainers.ppo.experience import Experience, Rollout
from training.trainers.ppo.minibatch import ResponseBatch


class UpdateSums:
    """Sums and extremes over the micro-batches of one optimizer step, kept on the device.

    `readings` are the log-probs and values that they are made of.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.readings = Readings()
        self._sums = torch.zeros(6, dtype=torch.float64, device=world.device)
        self._extremes = torch.full((2,), -torch.inf, dtype=torch.float64, device=world.device)

    def add_policy(
        self, policy: PolicyLoss, logprobs: Tensor, sampled: Tensor, batch: ResponseBatch
    ) -> None:
        """Add a micro-batch of the actor: log-probs [N] of its tokens now and in the rollout."""
        self.readings.add("log-prob", logprobs, batch.name_prompts)
        gap_sum = (logprobs - sampled).abs().sum()
        entries = (policy.loss, policy.clipped_tokens, policy.kl_sum, gap_sum)
        self._sums[:4] += torch.stack([entry.detach().double() for entry in entries])
        extremes = torch.stack([policy.ratio_max, -policy.ratio_min]).double()
        self._extremes = torch.maximum(self._extremes, extremes)

    def add_value(self, value: ValueLoss, values: Tensor, batch: ResponseBatch) -> None:
        """Add a micro-batch of the critic: values [b, t]."""
        self.readings.add("value", values[batch.mask], batch.name_prompts)
        entries = (value.loss, value.clipped_tokens)
        self._sums[4:] += torch.stack([entry.detach().double() for entry in entries])

    def compute_metrics(self, token_count: int) -> dict[str, float]:
        """Sum over all ranks; fractions are of the optimizer step's `token_count`."""
        sums = self._world.sum_over_ranks(self._sums).tolist()
        largest, smallest = self._world.max_over_ranks(self._extremes).tolist()
        return {
            "policy/loss": sums[0],
            "policy/clip_fraction": sums[1] / token_count,
            "policy/kl": sums[2] / token_count,
            "policy/logprob_gap": sums[3] / token_count,
            "value/loss": sums[4],
            "value/clip_fraction": sums[5] / token_count,
            "policy/ratio_max": largest,
            "policy/ratio_min": -smallest,
        }


def summarize_steps(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over the optimizer steps, extremes of the extremes, and the very first ratio."""
    if not steps:
        return {}  # all of them were skipped
    first = steps[0]
    metrics = {name: sum(step[name] for step in steps) / len(steps) for name in first}
    metrics["policy/ratio_max"] = max(step["policy/ratio_max"] for step in steps)
    metrics["policy/ratio_min"] = min(step["policy/ratio_min"] for step in steps)
    metrics["policy/logprob_gap"] = first["policy/logprob_gap"]  # later gaps hold its learning too
    metrics["policy/first_clip_fraction"] = first["policy/clip_fraction"]
    metrics["policy/first_ratio_error"] = max(
        first["policy/ratio_max"] - 1.0, 1.0 - first["policy/ratio_min"]
    )
    return metrics


def measure_experience(experience: Experience) -> dict[str, float]:
    """Measure a rollout and its rewards, advantages, values and returns."""
    rollout, values = experience.rollout, experience.values
    return {
        **measure_rollout(rollout),
        "rewards/mean": experience.rewards.sum(dim=1).mean().item(),
        "advantages/std": masked_mean_and_variance(experience.advantages, rollout.mask)[1] ** 0.5,
        "value/mean": masked_mean(values, rollout.mask).item(),
        "value/explained_variance": explained_variance(
            values, experience.returns, rollout.mask
        ).item(),
    }


def measure_rollout(rollout: Rollout) -> dict[str, float]:
    """Measure sampled responses: score, KL to ref, entropy, lengths, endings."""
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


def measure_clipping(rollout: Rollout, args: PPOArgs) -> dict[str, float]:
    """Measure the fraction of scores at --score_clip or beyond it, if there is a clip."""
    if not args.score_clip:
        return {}
    is_clipped = rollout.scores.abs() >= args.score_clip
    return {"score/clip_fraction": is_clipped.double().mean().item()}
