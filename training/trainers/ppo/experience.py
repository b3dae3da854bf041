"""A rollout and what PPO learns from it: rewards, advantages and returns. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.objectives.kl import estimate_kl
from training.objectives.ppo import compute_gae, compute_rewards, shape_scores
from training.tensors import whiten
from training.trainers.guards import Fault


@dataclass(frozen=True)
class Rollout:
    """B responses and what the models read in them, before any reward is computed.

    prompts and responses are token ids; [B, T] tensors are response-aligned and on the host. Every
    rank holds the whole rollout.
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
    fault: Fault | None = None  # the first number that is not finite; PPO skips such a rollout

    @property
    def lengths(self) -> list[int]:
        """Tokens of each whole sequence."""
        pairs = zip(self.prompts, self.responses, strict=True)
        return [len(prompt) + len(response) for prompt, response in pairs]


@dataclass(frozen=True)
class Experience:
    """A rollout with what PPO learns from: all [B, T], the same on every rank."""

    rollout: Rollout
    rewards: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def compute_token_rewards(rollout: Rollout, args: PPOArgs, *, kl_coef: float) -> Tensor:  # [B, T]
    """The score at the last token, minus the KL penalty at each."""
    mask = rollout.mask
    kl = estimate_kl(rollout.logprobs, rollout.ref_logprobs, mask, estimator=args.kl_estimator)
    scores = shape_scores(
        rollout.scores,
        rollout.has_eos,
        score_clip=args.score_clip,
        missing_eos=args.missing_eos,
        missing_eos_penalty=args.missing_eos_penalty,
    )
    rewards = compute_rewards(scores, kl, mask, kl_coef=kl_coef)
    return whiten(rewards, mask, keep_mean=True) if args.whiten_rewards else rewards


def make_experience(rollout: Rollout, args: PPOArgs, rewards: Tensor, values: Tensor) -> Experience:
    """Compute advantages and returns of a rollout from rewards and values, [B, T] each."""
    advantages, returns = compute_gae(
        rewards, values, rollout.mask, gamma=args.gamma, gae_lambda=args.gae_lambda
    )
    if args.advantage_whitening == "batch":
        advantages = whiten(advantages, rollout.mask)
    return Experience(rollout, rewards, values, advantages, returns)


def whiten_minibatch(experience: Experience, rows: Sequence[int], args: PPOArgs) -> Experience:
    """Whiten the advantages of these rows among themselves, if the flags say so."""
    if args.advantage_whitening != "minibatch":
        return experience
    advantages = experience.advantages.clone()
    advantages[rows] = whiten(advantages[rows], experience.rollout.mask[rows])
    return replace(experience, advantages=advantages)
