"""Fit a judge to the half of the reviews that no model reads, and measure how good it is."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.common.prepared import Row, read_jsonl, report_mistakes
from training.arguments.parsing import UserError, arg, parse_args
from training.evaluation.judges import SentimentJudge
from training.evaluation.statistics import bootstrap_interval, compute_wins
from training.judge import Judge
from training.paths import cache_dir

log = logging.getLogger("judge")

TEST_FRACTION = 0.1  # of the judge's reviews
SPLIT_SEED = 0  # every run gets the same judge


@dataclass(frozen=True, kw_only=True)
class JudgeArgs:
    example: str = arg("", "Prepared example, a folder of the cache; default: the full one.")


def run_judge(
    example: str, judge: SentimentJudge, log_agreement: Callable[[list[Row]], None]
) -> None:
    """Fit an example's judge, log its accuracy, and pass the test comparisons on."""
    args = parse_args(JudgeArgs)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = cache_dir() / (args.example or example)
    with report_mistakes("judge.py"):
        accuracy = fit_judge(judge, folder, example=example)
        log.info("judge: %.3f of held-out reviews classified correctly", accuracy)
        log_agreement(read_jsonl(folder / "reward.test.jsonl", example=example))


def fit_judge(judge: SentimentJudge, folder: Path, *, example: str) -> float:
    """Fit the judge; returns its accuracy on reviews held out from the fit."""
    rows = read_jsonl(folder / "judge.jsonl", example=example)
    random.Random(SPLIT_SEED).shuffle(rows)
    count = max(1, round(len(rows) * TEST_FRACTION))
    test, train = rows[:count], rows[count:]
    judge.fit([row["text"] for row in train], [row["label"] for row in train])
    return judge.measure_accuracy([row["text"] for row in test], [row["label"] for row in test])


def measure_agreement(
    score: Judge, groups: Sequence[Row], *, least_gap: float = 0.0
) -> tuple[float, float, float, int]:
    """Measure how often a judge orders the pairs of stage 2's rows as their labels do.

    Returns the proportion, its 95 % interval by prompt, and the number of pairs. A pair without
    a gap counts as gap 0.
    """
    better: list[float] = []
    worse: list[float] = []
    prompts: list[str] = []
    for group in groups:
        scores = score([response.strip() for response in group["responses"]])
        gaps = group.get("gaps", [0.0] * len(group["pairs"]))
        for (chosen, rejected, *_), gap in zip(group["pairs"], gaps, strict=True):
            if gap >= least_gap:
                better.append(scores[chosen])
                worse.append(scores[rejected])
                prompts.append(group["prompt"])
    if not better:
        raise UserError(f"the example's test split has no pair at least {least_gap:g} apart")
    wins = compute_wins(worse, better)
    low, high = bootstrap_interval(wins, prompts, seed=0)
    return float(wins.mean()), low, high, len(wins)
