"""The example's judge: a reader that had no part in training.

    python examples/chinese_reviews/judge.py            # how often it tells liked from disliked
    step3_ppo/evaluate.py --judge examples/chinese_reviews/judge.py ...

It learns liked from disliked on the half of the reviews that no model is trained on, by one to
three characters at a time.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

# A program sees its own folder only, and other examples may have files of the same names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.chinese_reviews.rows import PREFIX
from examples.common.judging import agreement, fit_judge
from examples.common.prepared import Row, mistakes_reported, read_jsonl
from training.arguments.parsing import arg, parse_args
from training.evaluation.judges import SentimentJudge
from training.judge import Judge
from training.paths import cache_dir

log = logging.getLogger("judge")

EXAMPLE = "chinese_reviews"


@dataclass(frozen=True, kw_only=True)
class JudgeArgs:
    example: str = arg(EXAMPLE, "Prepared example, a folder of the cache.")


def main() -> None:
    args = parse_args(JudgeArgs)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = cache_dir() / args.example
    with mistakes_reported("judge.py"):
        judge = SentimentJudge(unit="char")
        accuracy = fit_judge(judge, folder, example=EXAMPLE)
        log.info("judge: %.3f of held-out reviews told right", accuracy)
        groups = read_jsonl(folder / "reward.test.jsonl", example=EXAMPLE)
        share, low, high, pairs = agreement(judge.score, [_whole(group) for group in groups])
        log.info(
            "judge: %.3f [%.3f, %.3f] of %d pairs ordered as their labels are",
            *(share, low, high, pairs),
        )


def _whole(group: Row) -> Row:
    """The group with whole reviews in place of what follows their common opening."""
    shared = group["prompt"].removeprefix(PREFIX)
    return group | {"responses": [shared + response for response in group["responses"]]}


def judges(example: str | Path = EXAMPLE) -> dict[str, Judge]:
    """Name to scoring function. Fits in seconds.

    `example` is the name of prepared data in the cache, or its folder.
    """
    judge = SentimentJudge(unit="char")
    fit_judge(judge, cache_dir() / example, example=EXAMPLE)
    return {"judge": judge.score}


if __name__ == "__main__":
    main()
