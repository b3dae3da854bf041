"""Rows of the film example, made from a few snippets."""

import pytest

from examples.movie_reviews.archives import Snippet
from examples.movie_reviews.rows import (
    compute_human_ceiling,
    compute_preference,
    make_reward_rows,
    make_sft_rows,
)


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        ([3, 4], [1, 2], 1.0),
        ([1, 1], [1, 1], 0.5),
        ([2, 0], [1, 1], 0.5),
        ([2, 1], [1, 0], 0.875),  # three wins and a tie in four draws
    ],
)
def test_a_soft_label_is_the_chance_that_one_rater_scores_above_another(better, worse, expected):
    assert compute_preference(better, worse) == expected


def test_a_pair_points_from_the_higher_mean_to_the_lower():
    snippets = [
        Snippet("m", "low one", (0, 0)),
        Snippet("m", "high one", (3, 4)),
        Snippet("n", "alone", (1,)),
    ]
    (row,) = make_reward_rows(snippets)  # one snippet makes no pair
    assert row == {
        "prompt": "Movie: m\nReview:",
        "responses": [" low one", " high one"],
        "pairs": [[1, 0, 1.0]],
        "movie": "m",
        "gaps": [3.5],
    }


def test_the_same_sentence_twice_is_no_pair():
    snippets = [Snippet("m", "same", (0,)), Snippet("m", "same", (2,)), Snippet("m", "b", (1,))]
    (row,) = make_reward_rows(snippets)
    assert row["pairs"] == [[2, 0, 1.0], [1, 2, 1.0]]


def test_the_human_ceiling_is_the_mean_label_at_each_gap():
    rows = [{"pairs": [[0, 1, 0.6], [0, 2, 0.9], [1, 2, 1.0]], "gaps": [0.5, 1.0, 2.5]}]
    assert compute_human_ceiling(rows) == {
        "all": {"pairs": 3, "accuracy": 0.8333},
        "gap1": {"pairs": 2, "accuracy": 0.95},
        "gap2": {"pairs": 1, "accuracy": 1.0},
    }


def test_rows_are_mixed_by_film_and_the_same_for_a_seed():
    snippets = [Snippet(f"m{n // 4}", f"w1 w2 w3 text {n}", (0,)) for n in range(40)]
    once, again, other = (
        make_sft_rows(snippets, 0),
        make_sft_rows(snippets, 0),
        make_sft_rows(snippets, 1),
    )
    assert once == again
    assert once != other
    assert len({row["movie"] for row in once[:10]}) > 3
