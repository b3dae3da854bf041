"""Several votes on two responses become one label."""

import pytest

from tests.data.annotation.exports import (
    LEFT,
    RIGHT,
    annotation,
    chosen,
    convert_file,
    list_pairs,
    task,
    three_votes,
    write,
)
from training.arguments.parsing import UserError
from training.data.records import parse_group


@pytest.mark.parametrize(
    ("sides", "votes", "ties", "expected"),
    [
        (("left", "left", "right"), "soft", "drop", [("the left", "the right", 0.666667)]),
        (("right", "left", "right"), "soft", "drop", [("the right", "the left", 0.666667)]),
        (("left", "left", "right"), "majority", "drop", [LEFT]),
        (("left", "left", "right"), "all", "drop", [LEFT, LEFT, RIGHT]),
        (("left", "right"), "soft", "drop", [("the left", "the right", 0.5)]),
        (("left", "right"), "majority", "half", [("the left", "the right", 0.5)]),
        (("left", "none"), "soft", "half", [("the left", "the right", 0.75)]),
        (("left", "none"), "soft", "drop", [LEFT]),
        (("left", "none"), "all", "half", [LEFT, ("the left", "the right", 0.5)]),
    ],
)
def test_several_votes_become_a_label(tmp_path, sides, votes, ties, expected):
    rows, _ = convert_file(write(tmp_path, three_votes(*sides)), votes=votes, ties=ties)
    assert list_pairs(rows) == expected


def test_an_even_majority_is_undecided(tmp_path):
    tasks = [*three_votes("left", "right"), task(2, annotation(9, 1, chosen("left")))]
    rows, report = convert_file(write(tmp_path, tasks), votes="majority")
    assert list_pairs(rows) == [LEFT]
    assert report["undecided_questions"] == 1
    assert report["used"] == 3


def test_nothing_chosen_is_a_tie_where_ties_count(tmp_path):
    rows, report = convert_file(write(tmp_path, [task(1, annotation(1, 7, []))]), ties="half")
    assert list_pairs(rows) == [("the left", "the right", 0.5)]
    assert report["used"] == 1


@pytest.mark.parametrize(
    ("sides", "label"),
    [(("left",), 0.8), (("left", "left"), 16 / 17), (("left", "left", "right"), 0.8)],
)
def test_votes_that_are_wrong_one_time_in_five_are_that_much_evidence(tmp_path, sides, label):
    # Odds of 4 to 1 a vote: 4, 16, and 4 again after a vote against.
    rows, _ = convert_file(write(tmp_path, three_votes(*sides)), annotator_error="0.2")
    ((better, worse, found),) = list_pairs(rows)
    assert (better, worse) == ("the left", "the right")
    assert found == pytest.approx(label, abs=1e-6)


def test_the_error_is_estimated_from_agreement(tmp_path):
    # Two people agree on 41 of 50: (1 - e)^2 + e^2 = 0.82, so e = 0.1.
    tasks = [
        task(n, annotation(2 * n, 1, chosen("left")),
             annotation(2 * n + 1, 2, chosen("left" if n <= 41 else "right")))
        for n in range(1, 51)
    ]  # fmt: skip
    rows, report = convert_file(write(tmp_path, tasks), annotator_error="auto")
    assert report["annotator_error_used"] == pytest.approx(0.1, abs=1e-4)
    assert list_pairs(rows)[0][2] == pytest.approx(81 / 82, abs=1e-4)
    assert list_pairs(rows)[-1][2] == 0.5
    assert report["agreement"]["percent"] == 0.82


def test_an_estimate_from_few_comparisons_or_near_a_coin_is_doubted(tmp_path):
    def warnings(shared, agreed):
        tasks = [
            task(n, annotation(2 * n, 1, chosen("left" if n % 2 else "right")),
                 annotation(2 * n + 1, 2, chosen("left" if (n <= agreed) == n % 2 else "right")))
            for n in range(1, shared + 1)
        ]  # fmt: skip
        return convert_file(write(tmp_path, tasks), annotator_error="auto")[1]["warnings"]

    assert any("from 9 comparisons" in text for text in warnings(9, 8))
    assert any("estimated as 49%" in text for text in warnings(40, 20))
    assert not any("annotator_error" in text for text in warnings(40, 36))


def test_auto_needs_people_who_judged_the_same(tmp_path):
    path = write(tmp_path, [task(1, annotation(1, 7, chosen("left")))])
    with pytest.raises(UserError, match="--annotator_error auto needs"):
        convert_file(path, annotator_error="auto")


@pytest.mark.parametrize("votes", ["soft", "majority", "all"])
def test_a_comparison_keeps_who_chose_what(tmp_path, votes):
    cast = [annotation(1, 7, chosen("right")), annotation(2, "ann", chosen("right")),
            annotation(3, 9, chosen("left")), annotation(4, None, chosen("left"))]  # fmt: skip
    rows, _ = convert_file(write(tmp_path, [task(1, *cast)]), votes=votes, ties="half")
    (row, source), *_ = rows
    found = [
        (row["responses"][pair.chosen], name, share)
        for pair in parse_group(row, source).pairs
        for name, share in pair.votes
    ]
    if votes == "all":
        expected = {("the right", "7", 1.0), ("the right", "ann", 1.0), ("the left", "9", 1.0)}
    else:  # two against two: the left is first, and is `chosen`
        expected = {("the left", "7", 0.0), ("the left", "ann", 0.0), ("the left", "9", 1.0)}
    assert set(found) == expected
    assert len(found) == 3  # nobody is not a name


def test_votes_are_turned_with_their_comparison(tmp_path):
    sides = [annotation(n, n, chosen(side)) for n, side in enumerate(["right", "left", "right"])]
    rows, _ = convert_file(write(tmp_path, [task(1, *sides)]))
    (row, _), *_ = rows
    assert row["responses"][row["pairs"][0]["chosen"]] == "the right"
    assert row["pairs"][0]["votes"] == {"0": 1.0, "1": 0.0, "2": 1.0}
