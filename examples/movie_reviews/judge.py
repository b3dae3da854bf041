"""The example's judges, which had no part in training.

    python examples/movie_reviews/judge.py              # how often they agree with people
    step3_ppo/evaluate.py --judge examples/movie_reviews/judge.py ...

The judge is fitted to long reviews that no model is trained on, labelled liked or not. VADER, a
word list with rules, is a second opinion.
"""

import sys
from pathlib import Path

# A program has only its own folder on the path, and other examples have files of the same names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.common.judging import fit_judge, log, measure_agreement, run_judge
from examples.common.prepared import Row
from training.evaluation.judges import SentimentJudge, VaderJudge
from training.judge import Judge
from training.paths import cache_dir

EXAMPLE = "movie_reviews"


def main() -> None:
    judge = SentimentJudge()

    def log_agreement(groups: list[Row]) -> None:
        for name, score in (("judge", judge.score), ("vader", VaderJudge().score)):
            for least in (0.0, 1.0, 2.0):
                log.info(
                    "%s: %.3f [%.3f, %.3f] of %d pairs at least %g apart ordered as people did",
                    *(name, *measure_agreement(score, groups, least_gap=least), least),
                )

    run_judge(EXAMPLE, judge, log_agreement)


def judges(example: str | Path = EXAMPLE) -> dict[str, Judge]:
    """Fit the judges, in seconds, and return their scoring functions; the first is the main one.

    `example` is the name of prepared data in the cache, or its folder.
    """
    judge = SentimentJudge()
    fit_judge(judge, cache_dir() / example, example=EXAMPLE)
    return {"judge": judge.score, "vader": VaderJudge().score}


if __name__ == "__main__":
    main()
