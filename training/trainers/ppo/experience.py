"""A rollout and what PPO learns from it: rewards, advantages, returns. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.objectives.kl import kl_estimate
from training.objectives.ppo import compute_gae, compute_rewards, shape_scores
from training.tensors import masked_moments, mean_and_variance, whiten

_LISTS = ("prompts", "responses")


@dataclass(frozen=True)
class Rollout:
    """B responses and how the models read them, before any reward is computed.

    prompts and responses are token ids; [B, T] tensors are response-aligned, on the host.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    prompt_ids: list[int]
    mask: Tensor  # [B, T] bool
    logprobs: Tensor  # [B, T], of the actor that generated them
    ref_logprobs: Tensor  # [B, T]
    entropies: Tensor  # [B, T]
    values: Tensor  # [B, T]; zeros where the update reads them itself
    scores: Tensor  # [B], as the reward model gives them
    has_eos: Tensor  # [B] bool

    @property
    def lengths(self) -> list[int]:
        """Tokens of each whole sequence."""
        pairs = zip(self.prompts, self.responses, strict=True)
        return [len(prompt) + len(response) for prompt, response in pairs]

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, for a checkpoint; lists of lists with their lengths."""
        found = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        found["prompt_ids"] = torch.tensor(self.prompt_ids)
        for name in _LISTS:
            rows: list[list[int]] = getattr(self, name)
            found[name] = torch.tensor([token for row in rows for token in row])
            found[f"{name}_lengths"] = torch.tensor([len(row) for row in rows])
        return {name: value.contiguous() for name, value in found.items()}


def rollout_of(tensors: Mapping[str, Tensor]) -> Rollout:
    """The rollout that gave these `tensors()`."""
    parts: dict[str, Any] = dict(tensors)
    parts["prompt_ids"] = tensors["prompt_ids"].tolist()
    for name in _LISTS:
        lengths = parts.pop(f"{name}_lengths").tolist()
        parts[name] = [row.tolist() for row in torch.split(tensors[name], lengths)]
    return Rollout(**parts)


def prompt_name(rollout: Rollout, row: int) -> str:
    """How a message calls the prompt of this row."""
    return f"prompt {rollout.prompt_ids[row]}"


@dataclass(frozen=True)
class Experience:
    """A rollout with what PPO learns from: all [B, T], the same on every rank."""

    rollout: Rollout
    rewards: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def token_rewards(rollout: Rollout, args: PPOArgs, *, kl_coef: float) -> Tensor:  # [B, T]
    """The score at the last token, minus the KL penalty at each."""
    mask = rollout.mask
    kl = kl_estimate(rollout.logprobs, rollout.ref_logprobs, mask, estimator=args.kl_estimator)
    scores = shape_scores(
        rollout.scores,
        rollout.has_eos,
        score_clip=args.score_clip,
        missing_eos=args.missing_eos,
        missing_eos_penalty=args.missing_eos_penalty,
    )
    rewards = compute_rewards(scores, kl, mask, kl_coef=kl_coef)
    return _whitened(rewards, mask, keep_mean=True) if args.whiten_rewards else rewards


def make_experience(rollout: Rollout, args: PPOArgs, rewards: Tensor, values: Tensor) -> Experience:
    """Advantages and returns of a rollout with these rewards and values, [B, T] each."""
    advantages, returns = compute_gae(
        rewards, values, rollout.mask, gamma=args.gamma, gae_lambda=args.gae_lambda
    )
    if args.advantage_whitening == "batch":
        advantages = _whitened(advantages, rollout.mask, keep_mean=False)
    return Experience(rollout, rewards, values, advantages, returns)


def _whitened(values: Tensor, mask: Tensor, *, keep_mean: bool) -> Tensor:
    mean, variance = mean_and_variance(masked_moments(values, mask))
    return whiten(values, mask, mean=mean, variance=variance, keep_mean=keep_mean)
