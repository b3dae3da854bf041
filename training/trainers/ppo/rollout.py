"""Collect a rollout: sample responses, and score them with the models that PPO compares with."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from training.arguments.ppo import PPOArgs
from training.data.encode import EncodedPrompt
from training.hybrid_engine.decoder import Responses
from training.hybrid_engine.sampling import SampleKey
from training.hybrid_engine.scheduler import GenerationStopped
from training.inference import ResponseForwards
from training.models.tokenizers import Tokenizer
from training.runtime.distributed import World
from training.runtime.out_of_memory import explain_out_of_memory
from training.trainers.ppo.columns import find_fault, merge_shares
from training.trainers.ppo.experience import Rollout
from training.trainers.ppo.setup import Models

Job = tuple[EncodedPrompt, int]  # a response to draw: its prompt, its index among that prompt's


class RolloutCollector:
    """Samples from the actor, and runs reward model, ref, actor and critic over the samples."""

    def __init__(self, args: PPOArgs, world: World, tokenizer: Tokenizer, models: Models) -> None:
        self._args = args
        self._world = world
        self._eos_id, self._pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._models = models
        self.seconds: dict[str, float] = {}  # of the latest rollout

    def collect(
        self, step: int, prompts: Sequence[EncodedPrompt], samples_per_prompt: int
    ) -> Rollout:
        """Draw `samples_per_prompt` responses to each prompt; ranks share the work, all get all.

        Row p * samples_per_prompt + s is sample s of prompt p, however many ranks there are.
        """
        jobs = list_jobs(prompts, samples_per_prompt)
        # A rank with no work samples one response that is thrown away: forwards are collective.
        share = jobs[self._world.rank :: self._world.size] or jobs[:1]
        started = time.monotonic()
        with explain_out_of_memory("generate", self._args):
            generated = self._generate(step, share)
        generation_s = time.monotonic() - started
        with explain_out_of_memory("score", self._args):
            shares = self._world.gather(self._read(share, generated))
            rollout = merge_shares(shares, len(jobs))
        self.seconds = {
            "time/generate_s": generation_s,
            "time/score_s": time.monotonic() - started - generation_s,
        }
        return replace(rollout, fault=find_fault(rollout, self._models, self._world))

    def _generate(self, step: int, jobs: Sequence[Job]) -> Responses:
        """Sample from the actor; raises `StopRequested` on all ranks if any was asked to stop."""
        keys = [SampleKey(self._args.seed, step, prompt.prompt_id, n) for prompt, n in jobs]
        generated = None
        with self._models.hybrid.generation() as generate, suppress(GenerationStopped):
            generated = generate([prompt.input_ids for prompt, _ in jobs], keys)
        self._world.check_stop()
        assert generated is not None
        return generated

    def _read(self, jobs: Sequence[Job], generated: Responses) -> Rollout:
        """Run the models over these responses, where their outputs are not known yet."""
        args, models = self._args, self._models
        prompts = [prompt.input_ids for prompt, _ in jobs]
        responses = [generated.row(row) for row in range(len(jobs))]
        forwards = ResponseForwards(
            prompts,
            responses,
            token_budget=args.micro_batch_tokens,
            pad_id=self._pad_id,
            world=self._world,
        )
        logprobs, entropies, values = self._read_old_policy(forwards, generated)
        ref_logprobs = forwards.compute_logprobs(models.ref, temperature=args.temperature)
        return Rollout(
            prompts=prompts,
            responses=responses,
            prompt_ids=[prompt.prompt_id for prompt, _ in jobs],
            mask=forwards.mask.cpu(),
            logprobs=logprobs.cpu(),
            ref_logprobs=ref_logprobs.cpu(),
            entropies=entropies.cpu(),
            values=values.cpu(),
            scores=forwards.compute_scores(models.reward_model).cpu(),
            has_eos=torch.tensor([response[-1] == self._eos_id for response in responses]),
        )

    def _read_old_policy(
        self, forwards: ResponseForwards, generated: Responses
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Old log-probs, entropies and old values [B, T], which the losses compare with.

        --old_logprobs generation takes log-probs as sampled, `recompute` by a forward of the actor,
        which gives a shared trunk's values too; any other values take a forward of their own.
        With one optimizer step per rollout the update's forwards are the old policy's: the policy
        loss uses them, and a separate critic's values are read there alone (zeros here).
        """
        args, models = self._args, self._models
        columns = [generated.logprobs, generated.entropies]
        if args.old_logprobs == "recompute":
            columns = forwards.read_tokens(
                lambda batch: models.actor(*batch.inputs, args.temperature, with_entropy=True)
            )
        logprobs, entropies, *values = columns  # values: of a shared trunk
        if args.reads_values_in_update:
            values = [torch.zeros_like(logprobs)]
        elif not values:
            values = forwards.read_tokens(lambda batch: [models.read_values(batch)])
        return logprobs, entropies, values[0]


def list_jobs(prompts: Sequence[EncodedPrompt], samples_per_prompt: int) -> list[Job]:
    """Every response to draw; a prompt that comes twice in a batch gets further samples."""
    drawn: dict[int, int] = {}
    jobs = []
    for prompt in prompts:
        first = drawn.get(prompt.prompt_id, 0)
        drawn[prompt.prompt_id] = first + samples_per_prompt
        jobs += [(prompt, first + sample) for sample in range(samples_per_prompt)]
    return jobs
