"""Collecting experience: generate, score, and keep what the update needs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.data.encode import EncodedPrompt
from training.hybrid_engine.sampling import SampleKey
from training.models.tokenizers import Tokenizer
from training.objectives.kl import kl_estimate
from training.objectives.ppo import compute_gae, compute_rewards, shape_scores
from training.runtime.distributed import World
from training.tensors import masked_moments, mean_and_variance, whiten
from training.trainers.forwards import ResponseForwards
from training.trainers.ppo_setup import Models


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
    values: Tensor  # [B, T]
    scores: Tensor  # [B], as the reward model gives them
    has_eos: Tensor  # [B] bool


@dataclass(frozen=True)
class Experience:
    """A rollout with what PPO learns from: all [B, T], the same on every rank."""

    rollout: Rollout
    rewards: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def lengths(self) -> list[int]:
        """Tokens of each whole sequence."""
        pairs = zip(self.rollout.prompts, self.rollout.responses, strict=True)
        return [len(prompt) + len(response) for prompt, response in pairs]


class RolloutCollector:
    """Samples from the actor and reads the samples with all four models."""

    def __init__(self, args: PPOArgs, world: World, tokenizer: Tokenizer, models: Models) -> None:
        self._args = args
        self._world = world
        self._eos_id, self._pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._models = models
        self.seconds: dict[str, float] = {}

    def collect(
        self, step: int, prompts: Sequence[EncodedPrompt], samples_per_prompt: int
    ) -> Rollout:
        """`samples_per_prompt` responses to each prompt; ranks share the work, all get the result.

        Row p * samples_per_prompt + s is sample s of prompt p, however many ranks there are. A
        prompt that comes twice in a batch (there are fewer than the batch takes) is drawn anew.
        """
        jobs = _jobs(prompts, samples_per_prompt)
        # A rank without a response of its own makes one that is left out: forwards are collective.
        own = jobs[self._world.rank :: self._world.size] or jobs[:1]
        started = time.monotonic()
        keys = [SampleKey(self._args.seed, step, p.prompt_id, sample) for p, sample in own]
        with self._models.hybrid.generation() as generate:
            generated = generate([prompt.input_ids for prompt, _ in own], keys)
        responses = [generated.row(row) for row in range(len(own))]
        generation_s = time.monotonic() - started
        rollout = self._read(own, responses)
        merged = _merge(self._world.gather(rollout), len(jobs))
        self.seconds = {
            "time/generate_s": generation_s,
            "time/score_s": time.monotonic() - started - generation_s,
        }
        return merged

    def _read(
        self, jobs: Sequence[tuple[EncodedPrompt, int]], responses: list[list[int]]
    ) -> Rollout:
        """Every model's reading of these responses."""
        prompts = [prompt.input_ids for prompt, _ in jobs]
        forwards = ResponseForwards(
            prompts,
            responses,
            token_budget=self._args.micro_batch_tokens,
            pad_id=self._pad_id,
            world=self._world,
        )
        temperature = self._args.temperature
        logprobs, entropies = forwards.logprobs_and_entropies(
            self._models.actor, temperature=temperature
        )
        ref_logprobs = forwards.logprobs(self._models.ref, temperature=temperature)
        return Rollout(
            prompts=prompts,
            responses=responses,
            prompt_ids=[prompt.prompt_id for prompt, _ in jobs],
            mask=forwards.mask.cpu(),
            logprobs=logprobs.cpu(),
            ref_logprobs=ref_logprobs.cpu(),
            entropies=entropies.cpu(),
            values=forwards.values(self._models.critic).cpu(),
            scores=forwards.scores(self._models.reward_model).cpu(),
            has_eos=torch.tensor([response[-1] == self._eos_id for response in responses]),
        )


def _jobs(
    prompts: Sequence[EncodedPrompt], samples_per_prompt: int
) -> list[tuple[EncodedPrompt, int]]:
    """Every response to be drawn: its prompt and its index among that prompt's samples."""
    seen: dict[int, int] = {}
    jobs = []
    for prompt in prompts:
        first = seen.get(prompt.prompt_id, 0)
        seen[prompt.prompt_id] = first + samples_per_prompt
        jobs += [(prompt, first + sample) for sample in range(samples_per_prompt)]
    return jobs


def _merge(parts: Sequence[Rollout], count: int) -> Rollout:
    """One rollout from the ranks' parts, dealt out row by row."""
    width = max(part.mask.shape[1] for part in parts)
    merged: dict[str, list[object] | Tensor] = {}
    for field in fields(Rollout):
        columns = [getattr(part, field.name) for part in parts]
        if isinstance(columns[0], list):
            merged[field.name] = [columns[i % len(parts)][i // len(parts)] for i in range(count)]
            continue
        shape = (count, width) if columns[0].dim() == 2 else (count,)
        whole = torch.zeros(shape, dtype=columns[0].dtype)
        for rank, column in enumerate(columns):
            target = whole[rank :: len(parts)]
            kept = column[: len(target)]
            if column.dim() == 2:
                target[:, : column.shape[1]] = kept
            else:
                target[:] = kept
        merged[field.name] = whole
    return Rollout(**merged)  # type: ignore[arg-type]


def make_experience(rollout: Rollout, args: PPOArgs, *, kl_coef: float) -> Experience:
    """Rewards, advantages and returns of a rollout; pure."""
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
    if args.whiten_rewards:
        rewards = _whitened(rewards, mask, keep_mean=True)
    advantages, returns = compute_gae(
        rewards, rollout.values, mask, gamma=args.gamma, gae_lambda=args.gae_lambda
    )
    if args.advantage_whitening == "batch":
        advantages = _whitened(advantages, mask, keep_mean=False)
    return Experience(rollout, rewards, advantages, returns)


def _whitened(values: Tensor, mask: Tensor, *, keep_mean: bool) -> Tensor:
    mean, variance = mean_and_variance(masked_moments(values, mask))
    return whiten(values, mask, mean=mean, variance=variance, keep_mean=keep_mean)
