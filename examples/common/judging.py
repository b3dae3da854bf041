"""A judge that learns from the half of the reviews that no model reads, and how good it is."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.common.prepared import read_jsonl
from training.arguments.parsing import UserError
from training.evaluation.judges import SentimentJudge
from training.evaluation.statistics import bootstrap_interval, compute_wins
from training.judge import Judge

HELD_OUT = 0.1  # of the judge's own reviews
SPLIT_SEED = 0  # the judge is the same whatever run it judges


def fit_judge(judge: SentimentJudge, folder: Path, *, example: str) -> float:
    """Fit the judge; its accuracy on the part of its reviews that it did not learn from."""
    rows = read_jsonl(folder / "judge.jsonl", example=example)
    random.Random(SPLIT_SEED).shuffle(rows)
    held_out = max(1, round(len(rows) * HELD_OUT))
    test, train = rows[:held_out], rows[held_out:]
    judge.fit([row["text"] for row in train], [row["label"] for row in train])
    return judge.measure_accuracy([row["text"] for row in test], [row["label"] for row in test])


def agreement(
    score: Judge, groups: Sequence[dict[str, Any]], *, least_gap: float = 0.0
) -> tuple[float, float, float, int]:
    """How often a judge orders the pairs of stage 2's rows as their labels do.

    Share, its 95 % interval by prompt, and the number of pairs. Pairs without a gap have gap 0.
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
