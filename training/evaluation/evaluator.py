"""Two models on the same prompts: sample, judge, measure."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from training.arguments.evaluate import EvaluateArgs
from training.evaluation.inputs import Inputs, Side
from training.evaluation.perplexity import Reader
from training.evaluation.reward_model.accuracy import accuracy_entry
from training.evaluation.sampling import (
    load_policy,
    response_logprobs,
    response_scores,
    response_texts,
    sample_responses,
)
from training.evaluation.statistics import best_of_n_kl, bootstrap_interval, compute_wins
from training.evaluation.summary import Summary, compare
from training.models.cpu_blocks import use_cpu_blocks
from training.models.policy import Policy
from training.models.scalar import ScalarModel, load_scalar_model
from training.runtime.engine import compute_dtype

logger = logging.getLogger(__name__)

SHOWN_SAMPLES = 10
SCORE = "reward_model_score"  # the entry of the summary that is the reward model's own opinion


class Evaluator:
    """Models in, summary out. The response to a prompt is sample 0 of its model; best-of-n draws
    further samples of the `before` model, so that its pairs are of independent draws.
    """

    def __init__(self, args: EvaluateArgs, inputs: Inputs, device: torch.device) -> None:
        self._args, self._inputs = args, inputs
        self._started = time.monotonic()
        dtype = compute_dtype(args.dtype, device)
        self._policies = {
            side.name: load_policy(
                side.path, side.tokenizer, flag=f"--{side.name}", device=device, dtype=dtype
            )
            for side in (inputs.before, inputs.after)
        }
        self._reward_model: ScalarModel | None = None
        if inputs.scorer is not None:
            path = args.reward_model_name_or_path
            model = load_scalar_model(
                path,
                inputs.scorer,
                device=device,
                compute_dtype=dtype,
                tokens=len(inputs.before.tokenizer),
            )
            use_cpu_blocks(model)
            self._reward_model = model.to(device).requires_grad_(False).eval()
        self.sides: dict[str, list[str]] = {}  # the judged responses, by side

    def run(self) -> Summary:
        """Sample, judge and measure."""
        inputs = self._inputs
        before = self._sample(inputs.before, [0])
        after = self._sample(inputs.after, [0])
        scores = {
            "before": self._scores(inputs.before, before),
            "after": self._scores(inputs.after, after),
        }
        self.sides = {
            "before": self._texts(inputs.before, before),
            "after": self._texts(inputs.after, after),
        }
        others = self._best_of_n(scores)
        logger.info("judging %d pairs", len(before))
        summary = compare(
            self.sides["before"],
            self.sides["after"],
            inputs.groups,
            inputs.judges,
            given=inputs.given,
            others=others,
            seed=self._args.seed,
        )
        self.sides |= others
        self._add_scores(summary, scores)
        if self._args.reader_model_name_or_path:
            summary["perplexity"] = self._perplexity()
        summary["kl"] = self._kl(after) if inputs.share_tokens else None
        for n in self._args.best_of:
            summary[f"best_of_{n}"]["kl"] = best_of_n_kl(n)
        if inputs.comparisons:
            summary["reward_model"] = self._accuracy()
        summary["samples"] = self._samples()
        summary["seconds"] = {"evaluation": round(time.monotonic() - self._started, 1)}
        return summary

    def _sample(self, side: Side, samples: Sequence[int]) -> list[list[int]]:
        started = time.monotonic()
        policy = self._policies[side.name]
        drawn = sample_responses(policy, side.tokenizer, side.prompts, samples, self._args)
        seconds = time.monotonic() - started
        logger.info("%d responses of %s in %.1f s", len(drawn), side.path, seconds)
        return drawn

    def _texts(self, side: Side, responses: Sequence[Sequence[int]], each: int = 1) -> list[str]:
        """The responses as text, `each` of them to every prompt."""
        prompts = [ids for ids in side.prompt_ids for _ in range(each)]
        return response_texts(side.tokenizer, prompts, responses)

    def _scores(self, side: Side, responses: Sequence[Sequence[int]], each: int = 1) -> list[float]:
        """The reward model's scores; none without a reward model."""
        if self._reward_model is None:
            return []
        prompts = [ids for ids in side.prompt_ids for _ in range(each)]
        scores: list[float] = response_scores(
            self._reward_model,
            prompts,
            responses,
            pad_id=side.tokenizer.pad_token_id,
            token_budget=self._args.micro_batch_tokens,
        ).tolist()
        return scores

    def _best_of_n(self, scores: dict[str, list[float]]) -> dict[str, list[str]]:
        """The best of the first n further samples, for each n; adds their scores to `scores`."""
        if not self._args.best_of:
            return {}
        side, most = self._inputs.before, max(self._args.best_of)
        drawn = self._sample(side, range(1, most + 1))
        texts = self._texts(side, drawn, most)
        drawn_scores = self._scores(side, drawn, most)
        sides = {}
        for n in sorted(self._args.best_of):
            best = [
                max(range(first, first + n), key=drawn_scores.__getitem__)
                for first in range(0, len(drawn), most)
            ]
            sides[f"best_of_{n}"] = [texts[row] for row in best]
            scores[f"best_of_{n}"] = [drawn_scores[row] for row in best]
        return sides

    def _add_scores(self, summary: Summary, scores: Mapping[str, list[float]]) -> None:
        """The reward model's opinion as one more judge, the last one."""
        if self._reward_model is None:
            return
        for side, values in scores.items():
            if side == "before":
                continue
            wins = compute_wins(scores["before"], values)
            interval = bootstrap_interval(wins, self._inputs.groups, seed=self._args.seed)
            win = {"win_rate": float(wins.mean()), "win_rate_ci": list(interval)}
            if side == "after":
                means = {name: _mean(scores[name]) for name in ("before", "after")}
                summary[SCORE] = means | win
            else:
                summary[side][SCORE] = {"mean": _mean(values)} | win

    def _perplexity(self) -> dict[str, float]:
        """What the independent reader makes of each side, and of what people wrote."""
        inputs, args = self._inputs, self._args
        device = next(self._policies["before"].parameters()).device
        reader = Reader(
            args.reader_model_name_or_path,
            device=device,
            dtype=compute_dtype(args.dtype, device),
            token_budget=args.micro_batch_tokens,
        )
        given = inputs.given or [""] * len(inputs.texts)
        texts = {
            side: [a + b for a, b in zip(given, responses, strict=True)]
            for side, responses in self.sides.items()
        }
        if inputs.human:
            texts["human"] = inputs.human
        return {side: reader.median_perplexity(read) for side, read in texts.items()}

    def _kl(self, after: Sequence[Sequence[int]]) -> float:
        """KL(after || before) in nats per response, over the after model's own samples."""
        logprobs = {name: self._logprobs(policy, after) for name, policy in self._policies.items()}
        return float((logprobs["after"] - logprobs["before"]).mean())

    def _logprobs(self, policy: Policy, responses: Sequence[Sequence[int]]) -> torch.Tensor:
        return response_logprobs(
            policy,
            self._inputs.after.prompt_ids,
            responses,
            temperature=self._args.temperature,
            token_budget=self._args.micro_batch_tokens,
        )

    def _accuracy(self) -> dict[str, Any]:
        """How often the reward model orders held-out comparisons as people did."""
        assert self._reward_model is not None
        groups = self._inputs.comparisons
        scores = response_scores(
            self._reward_model,
            [group.prompt_ids for group in groups for _ in group.response_ids],
            [response for group in groups for response in group.response_ids],
            pad_id=self._inputs.before.tokenizer.pad_token_id,
            token_budget=self._args.micro_batch_tokens,
        )
        return accuracy_entry(groups, scores.tolist(), seed=self._args.seed)

    def _samples(self) -> list[dict[str, str]]:
        """A few pairs, evenly spaced and so not picked."""
        texts = self._inputs.texts
        count = min(SHOWN_SAMPLES, len(texts))
        return [
            {
                "prompt": texts[row],
                "before": self.sides["before"][row],
                "after": self.sides["after"][row],
            }
            for row in (index * len(texts) // count for index in range(count))
        ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
