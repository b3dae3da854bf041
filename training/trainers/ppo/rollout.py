"""Collecting experience: generate, score, and keep what the update needs."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields

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
from training.trainers.guards import Fault, weight_fault
from training.trainers.ppo.experience import Rollout, prompt_name
from training.trainers.ppo.setup import Models


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
        generated = None
        with (
            explain_out_of_memory("generate", self._args),
            self._models.hybrid.generation() as generate,
            suppress(GenerationStopped),
        ):
            generated = generate([prompt.input_ids for prompt, _ in own], keys)
        self._world.check_stop()  # raises on all ranks where any has broken off
        assert generated is not None
        generation_s = time.monotonic() - started
        with explain_out_of_memory("score", self._args):
            merged = _merge(self._world.gather(self._read(own, generated)), len(jobs))
        self.seconds = {
            "time/generate_s": generation_s,
            "time/score_s": time.monotonic() - started - generation_s,
        }
        return merged

    def _read(self, jobs: Sequence[tuple[EncodedPrompt, int]], generated: Responses) -> Rollout:
        """Every model's reading of these responses."""
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
        logprobs, entropies, values = self._read_actor(forwards, generated)
        ref_logprobs = forwards.logprobs(models.ref, temperature=args.temperature)
        return Rollout(
            prompts=prompts,
            responses=responses,
            prompt_ids=[prompt.prompt_id for prompt, _ in jobs],
            mask=forwards.mask.cpu(),
            logprobs=logprobs.cpu(),
            ref_logprobs=ref_logprobs.cpu(),
            entropies=entropies.cpu(),
            values=values.cpu(),
            scores=forwards.scores(models.reward_model).cpu(),
            has_eos=torch.tensor([response[-1] == self._eos_id for response in responses]),
        )

    def _read_actor(
        self, forwards: ResponseForwards, generated: Responses
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Old log-probs, entropies and old values, [B, T] each; values 0 if the update has them.

        A shared trunk that is run for the log-probs gives the values as well.
        """
        args, models = self._args, self._models
        found = [generated.logprobs, generated.entropies]
        if args.old_logprobs == "recompute":
            found = forwards.tokens(
                lambda batch: models.actor(
                    batch.input_ids,
                    batch.attention_mask,
                    batch.target_mask,
                    args.temperature,
                    with_entropy=True,
                )
            )
        if args.reads_values_in_update:
            found.append(torch.zeros_like(found[0]))
        elif len(found) == 2:
            found += forwards.tokens(lambda batch: [models.read_values(batch)])
        logprobs, entropies, values = found
        return logprobs, entropies, values


def rollout_fault(rollout: Rollout, models: Models, world: World) -> Fault | None:
    """What is first not finite in a rollout, which all ranks hold whole; all ranks call this."""
    read = {  # in the order in which they are read
        "log-prob of the actor": (rollout.logprobs, models.actor.module),
        "value": (rollout.values, (models.critic or models.actor).module),
        "log-prob of the ref": (rollout.ref_logprobs, models.ref),
        "score": (rollout.scores, models.reward_model),
    }
    for name, (values, model) in read.items():
        counts = rollout.mask if values.dim() == 2 else torch.ones_like(values, dtype=torch.bool)
        bad = counts & ~torch.isfinite(values)
        if not bad.any():
            continue
        rows = bad.flatten(1).any(dim=1) if bad.dim() == 2 else bad
        named = [prompt_name(rollout, row) for row in rows.nonzero().flatten().tolist()]
        return weight_fault({f"model that reads the {name}": model}, world) or Fault(name, named)
    return None


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
