"""From labelled reviews to the rows of each stage. Pure: no file, no tokenizer."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product

from examples.chinese_reviews.archives import Review
from examples.common.prepared import Row

PREFIX = "评论："
GIVEN_CHARS = 4  # of a review that is to be continued
SHARED_CHARS = 2  # with which reviews must begin to be compared


def opening(text: str, chars: int) -> str:
    """The first characters, and the rest of a Latin word or number that they would cut."""
    end = chars
    while end < len(text) and _is_latin(text[end - 1]) and _is_latin(text[end]):
        end += 1
    return text[:end]


def _is_latin(char: str) -> bool:
    return char.isascii() and char.isalnum()


def shared_opening(review: Review) -> str:
    """What a review has in common with those that it is compared with; splits keep it together."""
    return opening(review.text, SHARED_CHARS)


def sft_rows(reviews: Sequence[Review], seed: int) -> list[Row]:
    """The opening is given, the rest is to be written; shuffled, so any part is a fair one."""
    rows = []
    for review in reviews:
        given = opening(review.text, GIVEN_CHARS)
        rest = review.text[len(given) :]
        if rest.strip():
            row = {"prompt": PREFIX + given, "response": rest, "opening": shared_opening(review)}
            rows.append(row)
    random.Random(seed).shuffle(rows)
    return rows


def ppo_rows(rows: Iterable[Row]) -> list[Row]:
    """Each prompt once."""
    openings = {row["prompt"]: row["opening"] for row in rows}
    return [{"prompt": prompt, "opening": shared} for prompt, shared in openings.items()]


def reward_rows(reviews: Sequence[Review]) -> list[Row]:
    """One row an opening: the reviews that begin so, each liked one preferred to each other one.

    Nobody compared two reviews: a pair says that one writer was content and another was not.
    """
    groups = defaultdict(list)
    for review in reviews:
        if len(shared_opening(review)) < len(review.text):
            groups[shared_opening(review)].append(review)
    rows = []
    for shared, members in groups.items():
        by_label = [[n for n, r in enumerate(members) if r.label == label] for label in (1, 0)]
        if all(by_label):
            responses = [review.text[len(shared) :] for review in members]
            pairs = [list(pair) for pair in product(*by_label)]
            rows.append({"prompt": PREFIX + shared, "responses": responses, "pairs": pairs})
    return rows
