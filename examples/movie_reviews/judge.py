"""The example's judges: two readers that had no part in training.

    python examples/movie_reviews/judge.py              # how far they agree with people
    step3_ppo/evaluate.py --judge examples/movie_reviews/judge.py ...

The judge learns liked from disliked on long reviews that no model is trained on. VADER, a word
list with rules, is a second opinion.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

# A program sees its own folder only, and other examples may have files of the same names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.common.judging import agreement, fit_judge
from examples.common.prepared import mistakes_reported, read_jsonl
from training.arguments.parsing import arg, parse_args
from training.evaluation.judges import SentimentJudge, VaderJudge
from training.judge import Judge
from training.paths import cache_dir

log = logging.getLogger("judge")

EXAMPLE = "movie_reviews"


@dataclass(frozen=True, kw_only=True)
class JudgeArgs:
    example: str = arg(EXAMPLE, "Prepared example, a folder of the cache.")


def main() -> None:
    args = parse_args(JudgeArgs)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = cache_dir() / args.example
    with mistakes_reported("judge.py"):
        judge = SentimentJudge()
        accuracy = fit_judge(judge, folder, example=EXAMPLE)
        log.info("judge: %.3f of held-out long reviews told right", accuracy)
        groups = read_jsonl(folder / "reward.test.jsonl", example=EXAMPLE)
        for name, score in (("judge", judge.score), ("vader", VaderJudge().score)):
            for least in (0.0, 1.0, 2.0):
                share, low, high, pairs = agreement(score, groups, least_gap=least)
                log.info(
                    "%s: %.3f [%.3f, %.3f] of %d pairs at least %g apart ordered as people did",
                    *(name, share, low, high, pairs, least),
                )


def judges(example: str | Path = EXAMPLE) -> dict[str, Judge]:
    """Name to scoring function; the first is the main judge. Fits in seconds.

    `example` is the name of prepared data in the cache, or its folder.
    """
    judge = SentimentJudge()
    fit_judge(judge, cache_dir() / example, example=EXAMPLE)
    return {"judge": judge.score, "vader": VaderJudge().score}


if __name__ == "__main__":
    main()
