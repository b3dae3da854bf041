"""Evaluate two models on the same prompts: sample, judge, measure."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from statistics import median
from typing import Any

import torch

from training.arguments.evaluate import EvaluateArgs
from training.evaluation import sampling
from training.evaluation.inputs import Inputs, Side
from training.evaluation.perplexity import Reader
from training.evaluation.reward_model.accuracy import summarize_accuracy
from training.evaluation.statistics import best_of_n_kl
from training.evaluation.summary import Summary, compare_responses, compute_mean, compute_win_rate
from training.models.cpu_blocks import use_cpu_blocks
from training.models.scalar import ScalarModel, load_scalar_model
from training.models.tokenizers import has_same_tokens
from training.runtime.engine import compute_dtype

logger = logging.getLogger(__name__)

SHOWN_SAMPLES = 10
SCORE = "reward_model_score"  # the reward model's entry among the judges of a summary


@dataclass(frozen=True)
class _Sampled:
    """Responses of a model, prompt by prompt."""

    tokens: list[list[int]]
    texts: list[str]
    scores: list[float]  # of the reward model; [] without one

    def select(self, rows: Sequence[int]) -> "_Sampled":
        return _Sampled(*([column[row] for row in rows] for column in vars(self).values()))


class Evaluator:
    """Samples from both models and measures the responses.

    The judged response to a prompt is sample 0 of each model. Best-of-n uses further samples of
    the `before` model, so its pairs are of independent draws.
    """

    def __init__(self, args: EvaluateArgs, inputs: Inputs, device: torch.device) -> None:
        self._args, self._inputs, self._device = args, inputs, device
        self._started = time.monotonic()
        self._dtype = dtype = compute_dtype(args.dtype, device)
        self._policies = {
            side.name: sampling.load_policy(
                side.path, side.tokenizer, flag=f"--{side.name}", device=device, dtype=dtype
            )
            for side in (inputs.before, inputs.after)
        }
        self._reward_model: ScalarModel | None = None
        if inputs.scorer is not None:
            model = load_scalar_model(
                args.reward_model_name_or_path,
                inputs.scorer,
                device=device,
                compute_dtype=dtype,
                tokens=len(inputs.before.tokenizer),
            )
            use_cpu_blocks(model)
            self._reward_model = model.to(device).requires_grad_(False).eval()
        self.sides: dict[str, list[str]] = {}  # the judged responses, by side

    def run(self) -> Summary:
        """Sample, judge and measure; returns the content of summary.json."""
        inputs = self._inputs
        before = self._sample(inputs.before, [0])
        after = self._sample(inputs.after, [0])
        others = self._choose_best_of_n()
        logger.info("judging %d pairs", len(before.texts))
        summary = compare_responses(
            before.texts,
            after.texts,
            inputs.groups,
            inputs.judges,
            given=inputs.given,
            others={name: best.texts for name, best in others.items()},
            seed=self._args.seed,
        )
        sides = {"before": before, "after": after, **others}
        self.sides = {name: sampled.texts for name, sampled in sides.items()}
        if self._reward_model is not None:
            self._add_scores(summary, {name: sampled.scores for name, sampled in sides.items()})
        if self._args.reader_model_name_or_path:
            summary["perplexity"] = self._measure_perplexity()
        comparable = has_same_tokens(inputs.before.tokenizer, inputs.after.tokenizer)
        summary["kl"] = self._estimate_kl(after.tokens) if comparable else None
        for n in self._args.best_of:
            summary[f"best_of_{n}"]["kl"] = best_of_n_kl(n)
        if inputs.comparisons:
            summary["reward_model"] = self._measure_accuracy()
        summary["samples"] = self._pick_samples()
        summary["seconds"] = {"evaluation": round(time.monotonic() - self._started, 1)}
        return summary

    def _sample(self, side: Side, samples: Sequence[int]) -> _Sampled:
        """Sample responses with these indices to each prompt, and score them."""
        started = time.monotonic()
        policy = self._policies[side.name]
        drawn = sampling.sample_responses(policy, side.tokenizer, side.prompts, samples, self._args)
        seconds = time.monotonic() - started
        logger.info("%d responses of %s in %.1f s", len(drawn), side.path, seconds)
        prompts = [ids for ids in side.prompt_ids for _ in samples]
        scores = [] if self._reward_model is None else self._score(prompts, drawn)
        return _Sampled(drawn, sampling.decode_responses(side.tokenizer, prompts, drawn), scores)

    def _score(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[float]:
        assert self._reward_model is not None
        scores: list[float] = sampling.score_responses(
            self._reward_model,
            prompts,
            responses,
            pad_id=self._inputs.before.tokenizer.pad_token_id,
            token_budget=self._args.micro_batch_tokens,
        ).tolist()
        return scores

    def _choose_best_of_n(self) -> dict[str, _Sampled]:
        """Choose the response with the highest score of the first n further samples, for each n."""
        if not self._args.best_of:
            return {}
        most = max(self._args.best_of)
        drawn = self._sample(self._inputs.before, range(1, most + 1))
        starts = range(0, len(drawn.scores), most)
        return {
            f"best_of_{n}": drawn.select(
                [max(range(start, start + n), key=drawn.scores.__getitem__) for start in starts]
            )
            for n in sorted(self._args.best_of)
        }

    def _add_scores(self, summary: Summary, scores: dict[str, list[float]]) -> None:
        """Add the reward model to the summary as the last judge; `scores` by side."""
        before = scores.pop("before")
        for side, values in scores.items():
            win = compute_win_rate(before, values, self._inputs.groups, seed=self._args.seed)
            if side == "after":
                means = {"before": compute_mean(before), "after": compute_mean(values)}
                summary[SCORE] = means | win
            else:
                summary[side][SCORE] = {"mean": compute_mean(values)} | win

    def _measure_perplexity(self) -> dict[str, float]:
        """Measure the reader's median perplexity of each side, and of people's answers."""
        inputs, args = self._inputs, self._args
        reader = Reader(
            args.reader_model_name_or_path,
            device=self._device,
            dtype=self._dtype,
            token_budget=args.micro_batch_tokens,
        )
        given = inputs.given or [""] * len(inputs.texts)
        texts = {side: list(map(add, given, responses)) for side, responses in self.sides.items()}
        if inputs.human:
            texts["human"] = inputs.human
        return {side: median(reader.compute_perplexities(read)) for side, read in texts.items()}

    def _estimate_kl(self, after: Sequence[Sequence[int]]) -> float:
        """Estimate KL(after || before) in nats per response, from samples of the after model."""
        logprobs = {
            name: sampling.sum_response_logprobs(
                policy,
                self._inputs.after.prompt_ids,
                after,
                temperature=self._args.temperature,
                token_budget=self._args.micro_batch_tokens,
            )
            for name, policy in self._policies.items()
        }
        return float((logprobs["after"] - logprobs["before"]).mean())

    def _measure_accuracy(self) -> dict[str, Any]:
        """Measure how often the reward model orders held-out comparisons as people did."""
        groups = self._inputs.comparisons
        scores = self._score(
            [group.prompt_ids for group in groups for _ in group.response_ids],
            [response for group in groups for response in group.response_ids],
        )
        return summarize_accuracy(groups, scores, seed=self._args.seed)

    def _pick_samples(self) -> list[dict[str, str]]:
        """Pick a few pairs, evenly spaced."""
        columns = {"prompt": self._inputs.texts, **self.sides}
        total = len(self._inputs.texts)
        count = min(SHOWN_SAMPLES, total)
        return [
            {key: columns[key][index * total // count] for key in ("prompt", "before", "after")}
            for index in range(count)
        ]
