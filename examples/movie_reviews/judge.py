"""The example's judges: two readers that had no part in training.

    python examples/movie_reviews/judge.py              # how far they agree with people
    step3_ppo/evaluate.py --judge examples/movie_reviews/judge.py ...

The judge learns liked from disliked on long reviews that no model is trained on. VADER, a word
list with rules, is a second opinion.
"""

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.arguments.parsing import UserError, arg, exit_with_user_error, parse_args
from training.arguments.paths import cache_dir
from training.evaluation.judges import Judge, SentimentJudge, VaderJudge
from training.evaluation.statistics import bootstrap_interval, paired_wins

log = logging.getLogger("judge")

HELD_OUT = 0.1  # of the judge's own reviews
SPLIT_SEED = 0  # the judge is the same whatever run it judges


@dataclass(frozen=True, kw_only=True)
class JudgeArgs:
    example: str = arg("movie_reviews", "Prepared example, a folder of the cache.")


def main() -> None:
    args = parse_args(JudgeArgs)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = cache_dir() / args.example
    try:
        judge, accuracy = fit_judge(folder)
        log.info("judge: %.3f of held-out long reviews told right", accuracy)
        groups = _read(folder / "reward.test.jsonl")
        for name, score in (("judge", judge.score), ("vader", VaderJudge().score)):
            for least in (0.0, 1.0, 2.0):
                share, low, high, pairs = agreement(score, groups, least_gap=least)
                log.info(
                    "%s: %.3f [%.3f, %.3f] of %d pairs at least %g apart ordered as people did",
                    *(name, share, low, high, pairs, least),
                )
    except UserError as error:
        exit_with_user_error("judge.py", str(error))


def judges(example: str | Path = "movie_reviews") -> dict[str, Judge]:
    """Name to scoring function; the first is the main judge. Fits in seconds.

    `example` is the name of prepared data in the cache, or its folder.
    """
    judge, _ = fit_judge(cache_dir() / example)
    return {"judge": judge.score, "vader": VaderJudge().score}


def fit_judge(folder: Path) -> tuple[SentimentJudge, float]:
    """The judge, and its accuracy on the part of its reviews that it did not learn from."""
    rows = _read(folder / "judge.jsonl")
    random.Random(SPLIT_SEED).shuffle(rows)
    held_out = max(1, round(len(rows) * HELD_OUT))
    test, train = rows[:held_out], rows[held_out:]
    judge = SentimentJudge().fit([row["text"] for row in train], [row["label"] for row in train])
    return judge, judge.accuracy([row["text"] for row in test], [row["label"] for row in test])


def agreement(
    score: Judge, groups: Sequence[dict[str, Any]], *, least_gap: float
) -> tuple[float, float, float, int]:
    """How often a judge orders two snippets about one film as the mean ratings do.

    Share, its 95 % interval by film, and the number of pairs.
    """
    better: list[float] = []
    worse: list[float] = []
    movies: list[str] = []
    for group in groups:
        scores = score([response.strip() for response in group["responses"]])
        for (chosen, rejected, *_), gap in zip(group["pairs"], group["gaps"], strict=True):
            if gap >= least_gap:
                better.append(scores[chosen])
                worse.append(scores[rejected])
                movies.append(group["movie"])
    wins = paired_wins(worse, better)
    low, high = bootstrap_interval(wins, movies, seed=0)
    return float(wins.mean()), low, high, len(wins)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise UserError(
            f"{path} is not there; run: python examples/movie_reviews/prepare.py, "
            "or name another prepared folder with --example"
        )
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    main()
