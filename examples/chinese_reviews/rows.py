"""Make the rows of each stage from labelled reviews. Pure: no files, no tokenizer."""

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import product

from examples.chinese_reviews.archives import Review
from examples.common.prepared import Row

PREFIX = "评论："
GIVEN_CHARS = 4  # of a review, in the prompt
SHARED_CHARS = 2  # of reviews that are compared


def cut_opening(text: str, chars: int) -> str:
    """Return the first characters, and the rest of a Latin word or number that they would cut."""
    end = chars
    while end < len(text) and _is_latin(text[end - 1]) and _is_latin(text[end]):
        end += 1
    return text[:end]


def _is_latin(char: str) -> bool:
    return char.isascii() and char.isalnum()


def find_shared_opening(review: Review) -> str:
    """Return the opening that compared reviews share; a split keeps them together."""
    return cut_opening(review.text, SHARED_CHARS)


def make_sft_rows(reviews: Sequence[Review], seed: int) -> list[Row]:
    """Make demonstrations: the prompt is the opening, the response is the rest.

    They are shuffled, so that the first rows are a random sample.
    """
    rows = []
    for review in reviews:
        given = cut_opening(review.text, GIVEN_CHARS)
        rest = review.text[len(given) :]
        if rest.strip():
            shared = find_shared_opening(review)
            rows.append({"prompt": PREFIX + given, "response": rest, "opening": shared})
    random.Random(seed).shuffle(rows)
    return rows


def make_reward_rows(reviews: Sequence[Review]) -> list[Row]:
    """Make one row per opening: its reviews, each liked one preferred to each other one.

    Nobody compared two reviews: a pair says that one customer was content and another was not.
    """
    groups = defaultdict(list)
    for review in reviews:
        if len(find_shared_opening(review)) < len(review.text):
            groups[find_shared_opening(review)].append(review)
    rows = []
    for shared, members in groups.items():
        by_label = [[n for n, r in enumerate(members) if r.label == label] for label in (1, 0)]
        if all(by_label):
            responses = [review.text[len(shared) :] for review in members]
            pairs = [list(pair) for pair in product(*by_label)]
            rows.append({"prompt": PREFIX + shared, "responses": responses, "pairs": pairs})
    return rows
