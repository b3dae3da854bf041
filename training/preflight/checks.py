"""The checks of the self-check: assumptions of PPO, measured on the models of a run.

They change no weight and no random draw of the run. Every rank takes part and gets equal results.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.data.collate import collate_responses
from training.data.encode import EncodedGroup, EncodedPrompt
from training.hybrid_engine.sampling import SampleKey
from training.inference import Model, ResponseForwards
from training.models.loading import can_read_blocks
from training.models.scalar import ScalarModel
from training.models.tokenizers import Tokenizer
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, compute_dtype
from training.tensors import masked_sum
from training.trainers.ppo.experience import Rollout
from training.trainers.ppo.rollout import RolloutCollector
from training.trainers.ppo.setup import Models
from training.trainers.reward.step import RewardTrainer

SAMPLES = 2  # responses to each prompt
PADS = 3  # on either side of a row, besides those that its neighbours bring

# Tolerance for log-probs (nats) and scores of equal rows, averaged over a response's tokens.
SAME = {torch.float32: 1e-3, torch.bfloat16: 0.1}
ENDS = 0.01  # least probability that a response ends before it is cut
ENDING_ROWS = 256  # most prefixes of responses that are read to measure it


@dataclass(frozen=True)
class Check:
    """One measurement; it must be at most `bound`, or at least `bound` with `at_least`."""

    name: str
    measured: float
    bound: float
    hint: str
    at_least: bool = False

    @property
    def is_ok(self) -> bool:  # False for NaN
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


class SelfCheck:
    """Runs the checks, over the same few prompts on every rank."""

    def __init__(
        self,
        args: PPOArgs,
        world: World,
        tokenizer: Tokenizer,
        models: Models,
        prompts: Sequence[EncodedPrompt],
    ) -> None:
        # Compare the log-probs of sampling, even if PPO would recompute them.
        self._args = replace(args, old_logprobs="generation")
        self._world, self._models, self._prompts = world, models, prompts
        self._eos_id, self._pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._collector = RolloutCollector(self._args, world, tokenizer, models)
        self._same = SAME[compute_dtype(args.dtype, world.device)]
        self._make_forwards = partial(
            ResponseForwards,
            token_budget=args.micro_batch_tokens,
            pad_id=self._pad_id,
            world=world,
        )

    @torch.no_grad()
    def run(self) -> list[Check]:
        """Run all checks. Every rank calls this."""
        trained = self._models.actor.module
        was_training = trained.training
        with torch.random.fork_rng():
            before = self._hash_weights()
            rollout = self._collector.collect(0, self._prompts, SAMPLES)
            unchanged = self._check_weights_unchanged(before)
            checks = [
                *self._check_first_update(rollout),
                self._check_padding(rollout),
                unchanged,
                self._check_ending(rollout),
                self._check_stage_2_scores(rollout),
                self._check_ranks(rollout),
            ]
        trained.train(was_training)
        return checks

    def _check_first_update(self, rollout: Rollout) -> list[Check]:
        """Compare the actor in training and evaluation, ref and the decoder: still one policy."""
        args, actor = self._args, self._models.actor
        forwards = self._make_forwards(rollout.prompts, rollout.responses)
        actor.module.eval()
        evaluated = forwards.compute_logprobs(actor, temperature=args.temperature)
        actor.module.train()

        def read_in_training(batch: Any) -> Sequence[Tensor]:
            inputs = *batch.inputs, args.temperature
            return [actor(*inputs, token_loss=lambda logprobs, where: logprobs.sum())[1]]

        trained = forwards.read_tokens(read_in_training)[0]
        mask = rollout.mask
        ratios = (trained - evaluated).exp().cpu()
        return [
            Check(
                "first ratio is 1",
                float((ratios - 1.0).masked_fill(~mask, 0.0).abs().max()),
                self._same,
                "the actor's log-probs differ in training: is dropout left on? "
                "(see set_dropout in training/models/loading.py)",
            ),
            Check(
                "first KL to ref is 0",
                _measure_gap(evaluated.cpu(), rollout.ref_logprobs, mask),
                self._same,
                "actor and ref are not one model: was a run resumed, or does a folder hold two?",
            ),
            Check(
                "generation against training log-probs",
                _measure_gap(trained.cpu(), rollout.logprobs, mask),
                self._same,
                "the decoder and the forward differ for this architecture: use --old_logprobs "
                "recompute and report the model's config.json",
            ),
        ]

    def _check_padding(self, rollout: Rollout) -> Check:
        """Compare scores of responses together, alone, and with padding on either side."""
        model, gaps = self._models.reward_model, []
        rows = zip(rollout.prompts, rollout.responses, rollout.scores, strict=True)
        for prompt, response, together in rows:
            batch = collate_responses(
                [prompt], [response], pad_id=self._pad_id, device=self._world.device
            )
            for left, right in ((0, 0), (0, PADS), (PADS, 0)):
                tokens = nn.functional.pad(batch.input_ids, (left, right), value=self._pad_id)
                mask = nn.functional.pad(batch.attention_mask, (left, right), value=False)
                score = ScalarModel.scores(model(tokens, mask), mask)
                gaps.append((score.cpu() - together).abs())
        return Check(
            "scores without and with padding",
            float(torch.cat(gaps).max()),
            self._same,
            "the reward model's positions do not come from the mask: its architecture must take "
            "position_ids",
        )

    def _check_ending(self, rollout: Rollout) -> Check:
        """Compute the probability that a response ends before it is cut, from EOS at its tokens.

        In long responses only every few tokens are read, each for the tokens up to the next.
        """
        every = [
            (prompt + response[:length], index)
            for index, (prompt, response) in enumerate(
                zip(rollout.prompts, rollout.responses, strict=True)
            )
            for length in range(len(response))
        ]
        stride = math.ceil(len(every) / ENDING_ROWS)
        rows = every[::stride]
        forwards = self._make_forwards([prompt for prompt, _ in rows], [[self._eos_id]] * len(rows))
        self._models.actor.module.eval()
        logprobs = forwards.compute_logprobs(self._models.actor, temperature=self._args.temperature)
        continues = [1.0] * len(rollout.responses)
        for (_, index), logprob in zip(rows, logprobs[:, 0].tolist(), strict=True):
            continues[index] *= (1.0 - min(math.exp(logprob), 1.0)) ** stride
        return Check(
            f"chance to end within {self._args.max_new_tokens} tokens",
            1.0 - sum(continues) / len(continues),
            ENDS,
            "the model hardly ever draws EOS: train stage 1 on responses (its rows end with EOS), "
            "or raise --max_new_tokens; PAD must not be EOS",
            at_least=True,
        )

    def _check_stage_2_scores(self, rollout: Rollout) -> Check:
        """Compare stage 2's scores, of responses in shared rows, with those of the rollout."""
        groups = [
            EncodedGroup(prompt, rollout.responses[start : start + SAMPLES], (), f"prompt {start}")
            for start, prompt in list(enumerate(rollout.prompts))[::SAMPLES]
        ]
        model: Any = self._models.reward_model
        reader: Any = _Reader(model)
        args = RewardArgs(
            output_dir=self._args.output_dir,
            dtype=self._args.dtype,
            micro_batch_tokens=self._args.micro_batch_tokens,
            packing="always" if can_read_blocks(reader.module.backbone.config) else "never",
        )
        trainer = RewardTrainer(args, self._world, reader, [], self._pad_id)
        scores = torch.tensor([s for group in trainer.score(groups) for s in group])
        return Check(
            "the same reward in stages 2 and 3",
            float((scores - rollout.scores).abs().max()),
            self._same,
            "stages 2 and 3 score differently: report the reward model's scalar_model.json",
        )

    def _check_ranks(self, rollout: Rollout) -> Check:
        """Compare weights, sampled tokens, and readings of one rollout between all ranks."""
        world = self._world
        keys = [
            SampleKey(self._args.seed, 0, p.prompt_id, sample)
            for sample, p in enumerate(self._prompts[:SAMPLES])
        ]
        with self._models.hybrid.generation() as generate:
            drawn = generate([prompt.input_ids for prompt in self._prompts[:SAMPLES]], keys)
        forwards = self._make_forwards(rollout.prompts, rollout.responses)
        logprobs = forwards.compute_logprobs(self._models.actor, temperature=self._args.temperature)
        readings = torch.cat(
            [logprobs[forwards.mask], forwards.compute_scores(self._models.reward_model)]
        )
        exact = {
            "weights": [] if self._args.zero_stage == 3 else self._hash_weights(),
            "drawn": [drawn.row(row) for row in range(len(keys))],
        }
        ranks = world.gather((exact, readings.cpu()))
        expected, reference = ranks[0]
        gaps = [
            (values - reference).abs().max() if other == expected else torch.tensor(math.inf)
            for other, values in ranks
        ]
        return Check(
            f"{world.size} rank{'s' * (world.size > 1)} in agreement",
            float(torch.stack(gaps).max()),
            self._same,
            "ranks hold different weights or draw different tokens: give all hosts the same model "
            "folder, the same versions and the same kind of processor",
        )

    def _hash_weights(self) -> list[str]:
        """Hash this rank's values or shard of each weight, of all models."""
        models = self._models
        modules = [models.actor, models.critic, models.ref, models.reward_model]
        plain = [m.module if isinstance(m, TrainingEngine) else m for m in modules if m is not None]
        hashes = []
        for parameter in chain.from_iterable(module.parameters() for module in plain):
            values = getattr(parameter, "ds_tensor", parameter.data).detach().cpu()
            content = values.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            hashes.append(hashlib.blake2b(content, digest_size=16).hexdigest())
        return hashes

    def _check_weights_unchanged(self, before: list[str]) -> Check:
        changed = sum(a != b for a, b in zip(before, self._hash_weights(), strict=True))
        return Check(
            "weights changed by generation",
            float(sum(self._world.gather(changed))),
            0.0,
            "generation must never write to a weight: report the model's config.json",
        )


class _Reader:
    """Gives a frozen model the interface of a training engine."""

    def __init__(self, model: Model) -> None:
        self._model: Any = model
        self.module: Any = model if isinstance(model, ScalarModel) else model.module

    def __call__(self, *inputs: Any) -> Any:
        return self._model(*inputs)


def _measure_gap(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Average |first - second| over each row's tokens; return the largest of the rows."""
    rows = [
        masked_sum((a - b).abs(), m) / m.sum().clamp(min=1)
        for a, b, m in zip(first, second, mask, strict=True)
    ]
    return float(torch.stack(rows).max())
