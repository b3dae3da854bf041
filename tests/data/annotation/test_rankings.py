"""Rankings and ratings become the comparisons that they imply."""

from typing import Any

import pytest

from tests.data.annotation.exports import (
    annotation,
    convert_file,
    items,
    list_pairs,
    ranked,
    rated,
    region,
    task,
    write,
)
from training.arguments.parsing import UserError


def test_a_ranking_is_all_its_comparisons(tmp_path):
    tasks = [task(1, annotation(1, 7, ranked("a3", "a1", "a2")), data=items("x", "y", "z"))]
    rows, report = convert_file(write(tmp_path, tasks))
    assert len(rows) == 1
    assert sorted(list_pairs(rows)) == [("x", "y", 1.0), ("z", "x", 1.0), ("z", "y", 1.0)]
    assert report["pairs"] == 3


def test_a_partial_ranking_compares_only_the_ranked_answers(tmp_path):
    tasks = [task(1, annotation(1, 7, ranked("a3", "a1")), data=items("x", "y", "z"))]
    assert list_pairs(convert_file(write(tmp_path, tasks))[0]) == [("z", "x", 1.0)]


def test_rankings_of_several_people_are_votes_on_each_comparison(tmp_path):
    votes = [annotation(1, 1, ranked("a1", "a2")), annotation(2, 2, ranked("a2", "a1")),
             annotation(3, 3, ranked("a1", "a2"))]  # fmt: skip
    rows, report = convert_file(write(tmp_path, [task(1, *votes, data=items("x", "y"))]))
    assert list_pairs(rows) == [("x", "y", 0.666667)]
    assert report["agreement"]["percent"] == pytest.approx(1 / 3, abs=1e-4)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (ranked("a9", "a1"), "a ranking of answers that the task does not have"),
        (ranked("a1", "a1"), "a ranking that names an answer twice"),
        (ranked("a1"), "a ranking that orders nothing"),
        (ranked(), "a ranking that orders nothing"),
        ([region("ranker", "rank", {"ranker": ["a1"]})], "a ranking that is no object"),
        (
            [region("ranker", "rank", {"ranker": {"rank": "a1"}})],
            "a ranking of answers that the task does not have",
        ),
    ],
)
def test_a_ranking_that_cannot_be_read_is_dropped(tmp_path, result, reason):
    data = items("x", "y")
    tasks = [task(1, annotation(1, 7, result), data=data),
             task(2, annotation(2, 7, ranked("a1", "a2")), data=data)]  # fmt: skip
    _, report = convert_file(write(tmp_path, tasks))
    assert report["dropped"] == {reason: 1}


def bucketed(**buckets: list[str]) -> list[Any]:
    return [region("ranker", "rank", {"ranker": buckets})]


def test_buckets_are_ordered_by_the_config_and_equal_inside(tmp_path):
    config = tmp_path / "ranker.xml"
    config.write_text(
        '<View><Text name="p" value="$prompt"/><List name="l" value="$items"/>'
        '<Ranker name="rank" toName="l"><Bucket name="good"/><Bucket name="bad"/></Ranker></View>'
    )
    result = bucketed(bad=["a1"], good=["a3", "a2"], _=["a4"])
    path = write(tmp_path, [task(1, annotation(1, 7, result), data=items("w", "x", "y", "z"))])
    rows, _ = convert_file(path, label_config=str(config))
    assert sorted(list_pairs(rows)) == [("x", "w", 1.0), ("y", "w", 1.0)]


def test_buckets_without_a_config_are_not_guessed(tmp_path):
    result = bucketed(bad=["a1"], good=["a2"])
    path = write(tmp_path, [task(1, annotation(1, 7, result), data=items("x", "y"))])
    with pytest.raises(UserError, match="give the project's labelling config"):
        convert_file(path)


def rating_task(number: int, prompt: str, response: str, *given: Any) -> Any:
    return task(number, *given, data={"prompt": prompt, "response": response})


def test_ratings_compare_one_annotators_responses_to_one_prompt(tmp_path):
    tasks = [
        rating_task(1, "p", "good", annotation(1, 1, rated(5)), annotation(2, 2, rated(3))),
        rating_task(2, "p", "bad", annotation(3, 1, rated(2)), annotation(4, 2, rated(3))),
        rating_task(3, "q", "alone", annotation(5, 1, rated(4))),
        rating_task(4, "q", "by another", annotation(6, 2, rated(1))),
        rating_task(5, "q", "no number", annotation(7, 1, rated("5"))),
        rating_task(6, "p", "by nobody", annotation(8, None, rated(1))),
    ]
    rows, report = convert_file(write(tmp_path, tasks))
    assert list_pairs(rows) == [("good", "bad", 1.0)]
    assert report["dropped"] == {
        "a rating by nobody named, comparable with no other": 1,
        "a rating that is no number": 1,
        "rated as all others of its prompt": 2,
        "the only rating of its prompt by its annotator": 2,
    }
    rows, _ = convert_file(write(tmp_path, tasks), ties="half")
    assert list_pairs(rows) == [("good", "bad", 0.75)]
