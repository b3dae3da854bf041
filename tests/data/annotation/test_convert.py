"""Each choice of an export becomes a vote or is dropped with a reason."""

import pytest

from tests.data.annotation.exports import (
    LEFT,
    RIGHT,
    annotation,
    chosen,
    convert_file,
    items,
    list_pairs,
    ranked,
    region,
    task,
    three_votes,
    write,
    write_flat,
)
from training.arguments.parsing import UserError
from training.data.annotation.export import read_export


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (chosen("left"), LEFT),
        (chosen("right"), RIGHT),
        (chosen("left", origin="manual"), LEFT),
        (chosen("right", origin="prediction"), RIGHT),
        ([region("choices", "tone", {"choices": ["rude"]}), *chosen("right")], RIGHT),
        ([*chosen("left"), region("textarea", "why", {"text": ["because"]})], LEFT),
        ([*chosen("left"), *chosen("left")], LEFT),
    ],
)
def test_a_choice_is_a_vote_among_any_other_regions(tmp_path, result, expected):
    rows, report = convert_file(write(tmp_path, [task(1, annotation(1, 7, result))]))
    assert list_pairs(rows) == [expected]
    assert report["used"] == 1


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (annotation(1, 7, [], was_cancelled=True), "skipped"),
        (annotation(1, 7, chosen("left"), was_cancelled=True), "skipped"),
        (annotation(1, 7, []), "nothing chosen"),
        (annotation(1, 7, chosen("none")), "tie"),
        (annotation(1, 7, chosen("middle")), "a choice that is neither left nor right"),
        (
            annotation(1, 7, [region("pairwise", "comparison", {})]),
            "a choice that is neither left nor right",
        ),
        (
            annotation(1, 7, [*chosen("left"), *chosen("right")]),
            "several different choices in one annotation",
        ),
        (
            annotation(1, 7, [region("choices", "tone", {"choices": ["x"]})]),
            "no choice in its controls",
        ),
        (annotation(1, 7, None), "unreadable: 'result' is no list of objects"),
        (annotation(1, 7, ["left"]), "unreadable: 'result' is no list of objects"),
        ("left", "unreadable: no JSON object"),
    ],
)
def test_an_annotation_without_a_vote_is_dropped_with_its_reason(tmp_path, item, reason):
    good = task(2, annotation(9, 7, chosen("left")))
    rows, report = convert_file(write(tmp_path, [task(1, item), good]))
    assert list_pairs(rows) == [LEFT]
    assert report["dropped"] == {reason: 1}
    assert report["dropped_ids"][reason][0].startswith("task 1, annotation ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"prompt": "q", "answer1": "same", "answer2": "same"}, "both answers are the same"),
        ({"prompt": "q", "answer1": "", "answer2": "x"}, "the task has an empty answer"),
        ({"prompt": "q", "answer1": 3, "answer2": "x"}, "the task has no answer"),
        ({"prompt": "q", "answer1": "x"}, "the task has no answer"),
        ({"answer1": "x", "answer2": "y"}, "the task has no prompt"),
        ({"prompt": " ", "answer1": "x", "answer2": "y"}, "the task has an empty prompt"),
    ],
)
def test_a_task_without_what_a_vote_is_about_drops_its_votes(tmp_path, data, reason):
    bad = task(1, annotation(1, 7, chosen("left")), annotation(2, 8, chosen("left")), data=data)
    good = task(2, annotation(9, 7, chosen("left")))
    _, report = convert_file(write(tmp_path, [bad, good]))
    assert report["dropped"] == {reason: 2}


def test_drafts_and_predictions_are_counted_and_no_votes(tmp_path):
    drafts = [{"result": chosen("left"), "annotation": None, "user": "a@example.org"}]
    tasks = [
        task(1, drafts=drafts, predictions=[4]),
        task(2, annotation(1, 7, chosen("left")), drafts=[{**drafts[0], "annotation": 1}]),
        task(3, annotation(2, 7, chosen("left"), parent_prediction=5), predictions=[{"id": 5}]),
        task(4, annotation(3, 7, chosen("left"), ground_truth=True), surprise={"new": "key"}),
    ]
    _, report = convert_file(write(tmp_path, tasks))
    counts = {key: report[key] for key in ("drafts", "predictions", "from_predictions")}
    assert counts == {"drafts": 1, "predictions": 2, "from_predictions": 1}
    assert report["ground_truth"] == report["tasks_without_annotation"] == 1
    assert (report["tasks"], report["annotations"], report["used"]) == (4, 3, 3)
    assert any("prediction" in warning for warning in report["warnings"])


@pytest.mark.parametrize("by", [7, "7", {"id": 7, "email": "a@example.org"}])
def test_an_annotator_is_the_same_as_number_text_or_object(tmp_path, by):
    tasks = [task(1, annotation(1, 7, chosen("left"))), task(2, annotation(2, by, chosen("left")))]
    _, report = convert_file(write(tmp_path, tasks))
    assert list(report["annotators"]) == ["7"]


def test_of_one_annotators_two_submissions_the_later_counts(tmp_path):
    early, late = annotation(1, 7, chosen("left")), annotation(2, 7, chosen("right"))
    for order in ((early, late), (late, early)):
        rows, report = convert_file(write(tmp_path, [task(1, *order)]))
        assert list_pairs(rows) == [RIGHT]
        assert report["dropped"] == {"superseded by the same annotator": 1}


def test_a_skip_after_a_vote_does_not_take_it_back(tmp_path):
    tasks = [task(1, annotation(1, 7, chosen("left")), annotation(2, 7, [], was_cancelled=True))]
    rows, _ = convert_file(write(tmp_path, tasks))
    assert list_pairs(rows) == [LEFT]


@pytest.mark.parametrize("later", [[], [*chosen("left"), *chosen("right")], chosen("none")])
def test_a_later_submission_without_a_vote_takes_the_earlier_vote_back(tmp_path, later):
    both = task(1, annotation(1, 7, chosen("left")), annotation(2, 7, later))
    good = task(2, annotation(3, 7, chosen("right")))
    rows, report = convert_file(write(tmp_path, [both, good]))
    assert list_pairs(rows) == [RIGHT]
    assert report["dropped"]["superseded by the same annotator"] == 1


def test_people_without_a_name_do_not_supersede_each_other(tmp_path):
    votes = [annotation(n, None, chosen("left")) for n in (1, 2)]
    rows, report = convert_file(write(tmp_path, [task(1, *votes)]), votes="all")
    assert list_pairs(rows) == [LEFT, LEFT]
    assert report["used"] == 2


def test_answers_with_one_id_are_not_told_apart_by_a_guess(tmp_path):
    data = items("x", "y", "z")
    data["items"][1]["id"] = "a1"
    tasks = [task(1, annotation(1, 7, ranked("a1", "a3")), data=data),
             task(2, annotation(2, 7, ranked("a1", "a2")), data=items("x", "y"))]  # fmt: skip
    _, report = convert_file(write(tmp_path, tasks))
    assert report["dropped"] == {"two answers of the task have one id": 1}


def test_a_comparison_that_names_its_annotator_is_no_export(tmp_path):
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "annotator": 1, "annotation_id": 2}
    with pytest.raises(UserError, match="is no Label Studio export"):
        read_export(write(tmp_path, [row]))


def test_ratings_inside_a_tasks_answers_are_data(tmp_path):
    data = items("x", "y")
    for item in data["items"]:
        item["rating"] = 4
    tasks = [task(1, annotation(1, 7, ranked("a2", "a1")), data=data)]
    rows, _ = convert_file(write_flat(tmp_path, tasks, "csv"))
    assert list_pairs(rows) == [("y", "x", 1.0)]


def test_many_votes_against_a_tiny_error_are_certain(tmp_path):
    sides = ["right"] * 60
    rows, _ = convert_file(write(tmp_path, three_votes(*sides)), annotator_error="1e-12")
    assert list_pairs(rows) == [RIGHT]
