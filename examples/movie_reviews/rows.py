"""Make the rows of each stage from rated snippets. Pure: no files, no tokenizer."""

import random
from collections.abc import Iterable, Sequence
from itertools import combinations, product

from examples.common.prepared import Row
from examples.movie_reviews.archives import Snippet

GIVEN_WORDS = 3


def format_prompt(snippet: Snippet) -> str:
    return f"Movie: {snippet.movie}\nReview:"


def make_sft_rows(snippets: Sequence[Snippet], seed: int) -> list[Row]:
    """Make demonstrations: the prompt ends with the first words, the response is the rest.

    They are shuffled, so that the first rows are a random sample.
    """
    rows = []
    for snippet in snippets:
        words = snippet.text.split(" ")
        given, rest = " ".join(words[:GIVEN_WORDS]), " ".join(words[GIVEN_WORDS:])
        prompt = f"{format_prompt(snippet)} {given}"
        # The space belongs to the response: byte-level BPE never joins tokens across it.
        rows.append({"prompt": prompt, "response": f" {rest}", "movie": snippet.movie})
    random.Random(seed).shuffle(rows)
    return rows


def make_reward_rows(snippets: Sequence[Snippet]) -> list[Row]:
    """Make one row per film: its snippets, and every pair of them with a soft label and a gap."""
    by_movie: dict[str, list[Snippet]] = {}
    for snippet in snippets:
        by_movie.setdefault(snippet.movie, []).append(snippet)
    rows = []
    for movie, members in by_movie.items():
        pairs, gaps = [], []
        for i, j in combinations(range(len(members)), 2):
            if members[i].text == members[j].text:
                continue
            better, worse = (i, j) if members[i].mean >= members[j].mean else (j, i)
            label = compute_preference(members[better].ratings, members[worse].ratings)
            pairs.append([better, worse, round(label, 4)])
            gaps.append(round(members[better].mean - members[worse].mean, 4))
        if pairs:
            responses = [f" {member.text}" for member in members]
            prompt = format_prompt(members[0])
            row = {"prompt": prompt, "responses": responses, "pairs": pairs}
            rows.append(row | {"movie": movie, "gaps": gaps})
    return rows


def compute_preference(better: Sequence[int], worse: Sequence[int]) -> float:
    """Probability that a random rater of `better` rates it above a random rater of `worse`.

    A tie counts one half.
    """
    wins = sum((a > b) + 0.5 * (a == b) for a, b in product(better, worse))
    return wins / (len(better) * len(worse))


def compute_human_ceiling(rows: Iterable[Row]) -> Row:
    """Compute how often one rater per side agrees with the order of the mean ratings."""
    measured = [
        (gap, label)
        for row in rows
        for gap, (_, _, label) in zip(row["gaps"], row["pairs"], strict=True)
    ]
    ceiling: Row = {}
    for name, least in (("all", 0.0), ("gap1", 1.0), ("gap2", 2.0)):
        labels = [label for gap, label in measured if gap >= least]
        accuracy = round(sum(labels) / len(labels), 4) if labels else None
        ceiling[name] = {"pairs": len(labels), "accuracy": accuracy}
    return ceiling
