"""The example's judge, which had no part in training.

    python examples/chinese_reviews/judge.py            # how often it agrees with the labels
    step3_ppo/evaluate.py --judge examples/chinese_reviews/judge.py ...

It is fitted to the half of the reviews that no model is trained on, labelled liked or not, by one
to three characters at a time.
"""

import sys
from pathlib import Path

# A program has only its own folder on the path, and other examples have files of the same names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.chinese_reviews.rows import PREFIX
from examples.common.judging import fit_judge, log, measure_agreement, run_judge
from examples.common.prepared import Row
from training.evaluation.judges import SentimentJudge
from training.judge import Judge
from training.paths import cache_dir

EXAMPLE = "chinese_reviews"


def main() -> None:
    judge = SentimentJudge(unit="char")

    def log_agreement(groups: list[Row]) -> None:
        log.info(
            "judge: %.3f [%.3f, %.3f] of %d pairs ordered as their labels are",
            *measure_agreement(judge.score, [restore_reviews(group) for group in groups]),
        )

    run_judge(EXAMPLE, judge, log_agreement)


def restore_reviews(group: Row) -> Row:
    """Put the common opening of a group's reviews back in front of each."""
    shared = group["prompt"].removeprefix(PREFIX)
    return group | {"responses": [shared + response for response in group["responses"]]}


def judges(example: str | Path = EXAMPLE) -> dict[str, Judge]:
    """Fit the judge, in seconds, and return its scoring function.

    `example` is the name of prepared data in the cache, or its folder.
    """
    judge = SentimentJudge(unit="char")
    fit_judge(judge, cache_dir() / example, example=EXAMPLE)
    return {"judge": judge.score}


if __name__ == "__main__":
    main()
