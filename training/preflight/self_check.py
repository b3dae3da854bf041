"""What PPO relies on, measured with the run's own models before the first update.

Nothing here changes a weight or a random draw of the run. Every rank takes part and gets the same
result.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
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
from training.preflight.table import Check
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, compute_dtype
from training.tensors import masked_sum
from training.trainers.ppo.experience import Rollout
from training.trainers.ppo.rollout import RolloutCollector
from training.trainers.ppo.setup import Models
from training.trainers.reward.step import RewardTrainer

SAMPLES = 2  # responses to each prompt
PADS = 3  # on either side of a row, beside those that its neighbours bring

# By how much numbers that are equal by right may differ, in nats or points of score: log-probs and
# scores of equal rows, averaged over the tokens of a response where there are several.
SAME = {torch.float32: 1e-3, torch.bfloat16: 0.1}
ENDS = 0.01  # chance, at least, that a response ends before it is cut
ENDING_ROWS = 256  # at most so many prefixes of the responses are read for it


class SelfCheck:
    """The checks, over the same few prompts on every rank."""

    def __init__(
        self,
        args: PPOArgs,
        world: World,
        tokenizer: Tokenizer,
        models: Models,
        prompts: Sequence[EncodedPrompt],
    ) -> None:
        # The log-probs that are compared must be those of sampling, whatever PPO would take.
        self._args = replace(args, old_logprobs="generation")
        self._world, self._models, self._prompts = world, models, prompts
        self._eos_id, self._pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._collector = RolloutCollector(self._args, world, tokenizer, models)
        self._same = SAME[compute_dtype(args.dtype, world.device)]

    @torch.no_grad()
    def run(self) -> list[Check]:
        """All checks; every rank calls this."""
        trained = self._models.actor.module
        was_training = trained.training
        with torch.random.fork_rng():
            before = self._weights()
            rollout = self._collector.collect(0, self._prompts, SAMPLES)
            unchanged = self._unchanged(before)
            checks = [
                *self._first_update(rollout),
                self._padding(rollout),
                unchanged,
                self._ending(rollout),
                self._two_stages(rollout),
                self._ranks(rollout),
            ]
        trained.train(was_training)
        return checks

    def _forwards(self, rollout: Rollout) -> ResponseForwards:
        """All responses, read by every rank."""
        return ResponseForwards(
            rollout.prompts,
            rollout.responses,
            token_budget=self._args.micro_batch_tokens,
            pad_id=self._pad_id,
            world=self._world,
        )

    def _first_update(self, rollout: Rollout) -> list[Check]:
        """Before anything is learned all of these are one policy."""
        args, actor, forwards = self._args, self._models.actor, self._forwards(rollout)
        actor.module.eval()
        evaluated = forwards.logprobs(actor, temperature=args.temperature)
        actor.module.train()

        def training_forward(batch: Any) -> Sequence[Tensor]:
            inputs = batch.input_ids, batch.attention_mask, batch.target_mask, args.temperature
            return [actor(*inputs, token_loss=lambda logprobs, where: logprobs.sum())[1]]

        trained = forwards.tokens(training_forward)[0]
        mask = rollout.mask
        ratios = (trained - evaluated).exp().cpu()
        kl = _mean_gap(evaluated.cpu(), rollout.ref_logprobs, mask)
        generated = _mean_gap(trained.cpu(), rollout.logprobs, mask)
        return [
            Check(
                "first ratio is 1",
                float((ratios - 1.0).masked_fill(~mask, 0.0).abs().max()),
                self._same,
                "the actor reads otherwise in training: is dropout left on? "
                "(see set_dropout in training/models/loading.py)",
            ),
            Check(
                "first KL to ref is 0",
                kl,
                self._same,
                "actor and ref are not one model: did a run go on, or does a folder hold two?",
            ),
            Check(
                "generation against training log-probs",
                generated,
                self._same,
                "the decoder and the forward differ for this architecture: use --old_logprobs "
                "recompute and report the model's config.json",
            ),
        ]

    def _padding(self, rollout: Rollout) -> Check:
        """Scores of responses together, alone, and with padding on either side."""
        model = self._models.reward_model
        together = rollout.scores
        largest = 0.0
        for row, (prompt, response) in enumerate(
            zip(rollout.prompts, rollout.responses, strict=True)
        ):
            batch = collate_responses(
                [prompt], [response], pad_id=self._pad_id, device=self._world.device
            )
            for left, right in ((0, 0), (0, PADS), (PADS, 0)):
                tokens = nn.functional.pad(batch.input_ids, (left, right), value=self._pad_id)
                mask = nn.functional.pad(batch.attention_mask, (left, right), value=False)
                score = ScalarModel.scores(model(tokens, mask), mask)
                largest = _larger(largest, float((score.cpu() - together[row]).abs()))
        return Check(
            "scores without and with padding",
            largest,
            self._same,
            "the reward model's positions do not come from the mask: its architecture must take "
            "position_ids",
        )

    def _ending(self, rollout: Rollout) -> Check:
        """The chance that a response ends before it is cut, with EOS at each of its tokens.

        Of long responses one token stands for the next few.
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
        forwards = ResponseForwards(
            [prompt for prompt, _ in rows],
            [[self._eos_id] for _ in rows],
            token_budget=self._args.micro_batch_tokens,
            pad_id=self._pad_id,
            world=self._world,
        )
        self._models.actor.module.eval()
        found = forwards.logprobs(self._models.actor, temperature=self._args.temperature)
        goes_on = [1.0] * len(rollout.responses)
        for (_, index), logprob in zip(rows, found[:, 0].tolist(), strict=True):
            goes_on[index] *= (1.0 - min(math.exp(logprob), 1.0)) ** stride
        return Check(
            f"chance to end within {self._args.max_new_tokens} tokens",
            1.0 - sum(goes_on) / len(goes_on),
            ENDS,
            "the model hardly ever draws EOS: train stage 1 on responses (its rows end with EOS), "
            "or raise --max_new_tokens; PAD must not be EOS",
            at_least=True,
        )

    def _two_stages(self, rollout: Rollout) -> Check:
        """Stage 2's scores, of responses in shared rows, against those that PPO learns from."""
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
            "stage 2 scores otherwise than PPO: report the reward model's scalar_model.json",
        )

    def _ranks(self, rollout: Rollout) -> Check:
        """Replicated weights, a draw, and readings of one and the same rollout on every rank."""
        world = self._world
        keys = [
            SampleKey(self._args.seed, 0, p.prompt_id, sample)
            for sample, p in enumerate(self._prompts[:SAMPLES])
        ]
        with self._models.hybrid.generation() as generate:
            drawn = generate([prompt.input_ids for prompt in self._prompts[:SAMPLES]], keys)
        forwards = self._forwards(rollout)
        logprobs = forwards.logprobs(self._models.actor, temperature=self._args.temperature)
        readings = torch.cat([logprobs[forwards.mask], forwards.scores(self._models.reward_model)])
        own = {
            "weights": [] if self._args.zero_stage == 3 else self._weights(),
            "drawn": [drawn.row(row) for row in range(len(keys))],
        }
        parts = world.gather((own, readings.cpu()))
        largest = 0.0
        for other, values in parts:
            gap = (values - parts[0][1]).abs().max()
            largest = _larger(largest, float(gap) if other == parts[0][0] else math.inf)
        return Check(
            f"{world.size} rank{'s' * (world.size > 1)} in agreement",
            largest,
            self._same,
            "ranks hold other weights or draw other tokens: give all hosts the same model folder, "
            "the same versions and the same kind of processor",
        )

    def _weights(self) -> list[str]:
        """A digest of what this rank holds of each weight, of all models."""
        models = self._models
        modules = [models.actor, models.critic, models.ref, models.reward_model]
        plain = [m.module if isinstance(m, TrainingEngine) else m for m in modules if m is not None]
        return [
            _digest(getattr(parameter, "ds_tensor", parameter.data))
            for module in plain
            for parameter in module.parameters()
        ]

    def _unchanged(self, before: list[str]) -> Check:
        changed = sum(a != b for a, b in zip(before, self._weights(), strict=True))
        return Check(
            "weights changed by generation",
            float(sum(self._world.gather(changed))),
            0.0,
            "generating must never write to a weight: report the model's config.json",
        )


class _Reader:
    """A frozen model under the names that a trainer calls an engine by."""

    def __init__(self, model: Model) -> None:
        self._model: Any = model
        self.module: Any = model if isinstance(model, ScalarModel) else model.module

    def __call__(self, *inputs: Any) -> Any:
        return self._model(*inputs)


def _mean_gap(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """|first - second| averaged over each row's tokens; the largest of the rows."""
    rows = [
        masked_sum((a - b).abs(), m) / m.sum().clamp(min=1)
        for a, b, m in zip(first, second, mask, strict=True)
    ]
    return float(torch.stack(rows).max())


def _larger(first: float, second: float) -> float:
    """The larger, or NaN as soon as there is one."""
    return second if math.isnan(second) or second > first else first


def _digest(values: Tensor) -> str:
    content = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(content.tobytes(), digest_size=16).hexdigest()
