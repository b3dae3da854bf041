"""Exports become comparisons, and every annotation is accounted for."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.data.annotation.exports import (
    annotation,
    chosen,
    items,
    ranked,
    rated,
    region,
    task,
    write,
    write_flat,
)
from training.arguments.annotation import AnnotationArgs, VoteArgs
from training.arguments.parsing import UserError
from training.data.annotation.convert import convert_if_export, convert_tasks
from training.data.annotation.export import read_export
from training.data.annotation.report import format_report
from training.data.files import read_file
from training.data.records import parse_group

ARGS = VoteArgs()
PAIR_CONFIG = """<View><Text name="q" value="$question"/>
<Pairwise name="better" toName="two,one"/>
<Text name="one" value="$first"/><Text name="two" value="$second"/></View>"""


def converted(path: str, **changes: Any) -> Any:
    rows, report = convert_tasks(read_export(path), path, replace(ARGS, **changes))
    assert report["used"] + sum(report["dropped"].values()) == report["annotations"]
    for row, source in rows:
        parse_group(row, source)  # stage 2 takes it
    return rows, report


def pairs_of(rows: Any) -> list[tuple[str, str, float]]:
    """(better, worse, label) of all comparisons, as texts."""
    return [
        (row["responses"][pair["chosen"]], row["responses"][pair["rejected"]], pair["label"])
        for row, _ in rows
        for pair in row["pairs"]
    ]


LEFT, RIGHT = ("the left", "the right", 1.0), ("the right", "the left", 1.0)


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
def test_a_choice_is_a_vote_wherever_it_stands(tmp_path, result, expected):
    rows, report = converted(write(tmp_path, [task(1, annotation(1, 7, result))]))
    assert pairs_of(rows) == [expected]
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
def test_what_is_no_vote_is_dropped_by_name(tmp_path, item, reason):
    good = task(2, annotation(9, 7, chosen("left")))
    rows, report = converted(write(tmp_path, [task(1, item), good]))
    assert pairs_of(rows) == [LEFT]
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
    _, report = converted(write(tmp_path, [bad, good]))
    assert report["dropped"] == {reason: 2}


def test_drafts_and_predictions_are_counted_and_no_votes(tmp_path):
    drafts = [{"result": chosen("left"), "annotation": None, "user": "a@example.org"}]
    tasks = [
        task(1, drafts=drafts, predictions=[4]),
        task(2, annotation(1, 7, chosen("left")), drafts=[{**drafts[0], "annotation": 1}]),
        task(3, annotation(2, 7, chosen("left"), parent_prediction=5), predictions=[{"id": 5}]),
        task(4, annotation(3, 7, chosen("left"), ground_truth=True), surprise={"new": "key"}),
    ]
    _, report = converted(write(tmp_path, tasks))
    counts = {key: report[key] for key in ("drafts", "predictions", "from_predictions")}
    assert counts == {"drafts": 1, "predictions": 2, "from_predictions": 1}
    assert report["ground_truth"] == report["tasks_without_annotation"] == 1
    assert (report["tasks"], report["annotations"], report["used"]) == (4, 3, 3)
    assert any("prediction" in warning for warning in report["warnings"])


@pytest.mark.parametrize("by", [7, "7", {"id": 7, "email": "a@example.org"}])
def test_an_annotator_is_the_same_as_number_text_or_object(tmp_path, by):
    tasks = [task(1, annotation(1, 7, chosen("left"))), task(2, annotation(2, by, chosen("left")))]
    _, report = converted(write(tmp_path, tasks))
    assert list(report["annotators"]) == ["7"]


def test_of_one_annotators_two_submissions_the_later_counts(tmp_path):
    early, late = annotation(1, 7, chosen("left")), annotation(2, 7, chosen("right"))
    for order in ((early, late), (late, early)):
        rows, report = converted(write(tmp_path, [task(1, *order)]))
        assert pairs_of(rows) == [RIGHT]
        assert report["dropped"] == {"superseded by the same annotator": 1}


def test_a_skip_after_a_vote_does_not_take_it_back(tmp_path):
    tasks = [task(1, annotation(1, 7, chosen("left")), annotation(2, 7, [], was_cancelled=True))]
    rows, _ = converted(write(tmp_path, tasks))
    assert pairs_of(rows) == [LEFT]


@pytest.mark.parametrize("later", [[], [*chosen("left"), *chosen("right")], chosen("none")])
def test_a_later_submission_without_a_vote_takes_the_earlier_vote_back(tmp_path, later):
    both = task(1, annotation(1, 7, chosen("left")), annotation(2, 7, later))
    good = task(2, annotation(3, 7, chosen("right")))
    rows, report = converted(write(tmp_path, [both, good]))
    assert pairs_of(rows) == [RIGHT]
    assert report["dropped"]["superseded by the same annotator"] == 1


def test_people_without_a_name_do_not_supersede_each_other(tmp_path):
    votes = [annotation(n, None, chosen("left")) for n in (1, 2)]
    rows, report = converted(write(tmp_path, [task(1, *votes)]), votes="all")
    assert pairs_of(rows) == [LEFT, LEFT]
    assert report["used"] == 2


def test_answers_with_one_id_are_not_told_apart_by_a_guess(tmp_path):
    data = items("x", "y", "z")
    data["items"][1]["id"] = "a1"
    tasks = [task(1, annotation(1, 7, ranked("a1", "a3")), data=data),
             task(2, annotation(2, 7, ranked("a1", "a2")), data=items("x", "y"))]  # fmt: skip
    _, report = converted(write(tmp_path, tasks))
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
    rows, _ = converted(write_flat(tmp_path, tasks, "csv"))
    assert pairs_of(rows) == [("y", "x", 1.0)]


def test_many_votes_against_a_tiny_error_are_certain(tmp_path):
    sides = ["right"] * 60
    rows, _ = converted(write(tmp_path, three_votes(*sides)), annotator_error="1e-12")
    assert pairs_of(rows) == [RIGHT]


def three_votes(*sides: str) -> list[Any]:
    votes = [annotation(n, n, chosen(side)) for n, side in enumerate(sides, start=1)]
    return [task(1, *votes)]


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
    rows, _ = converted(write(tmp_path, three_votes(*sides)), votes=votes, ties=ties)
    assert pairs_of(rows) == expected


def test_an_even_majority_is_undecided(tmp_path):
    tasks = [*three_votes("left", "right"), task(2, annotation(9, 1, chosen("left")))]
    rows, report = converted(write(tmp_path, tasks), votes="majority")
    assert pairs_of(rows) == [LEFT]
    assert report["undecided_questions"] == 1
    assert report["used"] == 3


def test_nothing_chosen_is_a_tie_where_ties_count(tmp_path):
    rows, report = converted(write(tmp_path, [task(1, annotation(1, 7, []))]), ties="half")
    assert pairs_of(rows) == [("the left", "the right", 0.5)]
    assert report["used"] == 1


@pytest.mark.parametrize(
    ("sides", "label"),
    [(("left",), 0.8), (("left", "left"), 16 / 17), (("left", "left", "right"), 0.8)],
)
def test_votes_that_are_wrong_one_time_in_five_are_that_much_evidence(tmp_path, sides, label):
    # Odds of 4 to 1 a vote: 4, 16, and 4 again after a vote against.
    rows, _ = converted(write(tmp_path, three_votes(*sides)), annotator_error="0.2")
    ((better, worse, found),) = pairs_of(rows)
    assert (better, worse) == ("the left", "the right")
    assert found == pytest.approx(label, abs=1e-6)


def test_the_error_is_estimated_from_agreement(tmp_path):
    # Two people agree on 41 of 50: (1 - e)^2 + e^2 = 0.82, so e = 0.1.
    tasks = [
        task(n, annotation(2 * n, 1, chosen("left")),
             annotation(2 * n + 1, 2, chosen("left" if n <= 41 else "right")))
        for n in range(1, 51)
    ]  # fmt: skip
    rows, report = converted(write(tmp_path, tasks), annotator_error="auto")
    assert report["annotator_error_used"] == pytest.approx(0.1, abs=1e-4)
    assert pairs_of(rows)[0][2] == pytest.approx(81 / 82, abs=1e-4)
    assert pairs_of(rows)[-1][2] == 0.5
    assert report["agreement"]["percent"] == 0.82


def test_an_estimate_from_few_comparisons_or_near_a_coin_is_doubted(tmp_path):
    def warnings(shared, agreed):
        tasks = [
            task(n, annotation(2 * n, 1, chosen("left" if n % 2 else "right")),
                 annotation(2 * n + 1, 2, chosen("left" if (n <= agreed) == n % 2 else "right")))
            for n in range(1, shared + 1)
        ]  # fmt: skip
        return converted(write(tmp_path, tasks), annotator_error="auto")[1]["warnings"]

    assert any("from 9 comparisons" in text for text in warnings(9, 8))
    assert any("estimated as 49%" in text for text in warnings(40, 20))
    assert not any("annotator_error" in text for text in warnings(40, 36))


def test_auto_needs_people_who_judged_the_same(tmp_path):
    path = write(tmp_path, [task(1, annotation(1, 7, chosen("left")))])
    with pytest.raises(UserError, match="--annotator_error auto needs"):
        converted(path, annotator_error="auto")


@pytest.mark.parametrize("votes", ["soft", "majority", "all"])
def test_a_comparison_keeps_who_chose_what(tmp_path, votes):
    cast = [annotation(1, 7, chosen("right")), annotation(2, "ann", chosen("right")),
            annotation(3, 9, chosen("left")), annotation(4, None, chosen("left"))]  # fmt: skip
    rows, _ = converted(write(tmp_path, [task(1, *cast)]), votes=votes, ties="half")
    (row, source), *_ = rows
    found = [
        (row["responses"][pair.chosen], name, share)
        for pair in parse_group(row, source).pairs
        for name, share in pair.votes
    ]
    if votes == "all":
        expected = {("the right", "7", 1.0), ("the right", "ann", 1.0), ("the left", "9", 1.0)}
    else:  # two against two: the left stands first, and is `chosen`
        expected = {("the left", "7", 0.0), ("the left", "ann", 0.0), ("the left", "9", 1.0)}
    assert set(found) == expected
    assert len(found) == 3  # nobody is not a name


def test_votes_are_turned_with_their_comparison(tmp_path):
    sides = [annotation(n, n, chosen(side)) for n, side in enumerate(["right", "left", "right"])]
    rows, _ = converted(write(tmp_path, [task(1, *sides)]))
    (row, _), *_ = rows
    assert row["responses"][row["pairs"][0]["chosen"]] == "the right"
    assert row["pairs"][0]["votes"] == {"0": 1.0, "1": 0.0, "2": 1.0}


def test_a_ranking_is_all_its_comparisons(tmp_path):
    tasks = [task(1, annotation(1, 7, ranked("a3", "a1", "a2")), data=items("x", "y", "z"))]
    rows, report = converted(write(tmp_path, tasks))
    assert len(rows) == 1
    assert sorted(pairs_of(rows)) == [("x", "y", 1.0), ("z", "x", 1.0), ("z", "y", 1.0)]
    assert report["pairs"] == 3


def test_a_partial_ranking_says_nothing_of_what_it_leaves_out(tmp_path):
    tasks = [task(1, annotation(1, 7, ranked("a3", "a1")), data=items("x", "y", "z"))]
    assert pairs_of(converted(write(tmp_path, tasks))[0]) == [("z", "x", 1.0)]


def test_rankings_of_several_people_are_votes_on_each_comparison(tmp_path):
    votes = [annotation(1, 1, ranked("a1", "a2")), annotation(2, 2, ranked("a2", "a1")),
             annotation(3, 3, ranked("a1", "a2"))]  # fmt: skip
    rows, report = converted(write(tmp_path, [task(1, *votes, data=items("x", "y"))]))
    assert pairs_of(rows) == [("x", "y", 0.666667)]
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
    _, report = converted(write(tmp_path, tasks))
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
    rows, _ = converted(path, label_config=str(config))
    assert sorted(pairs_of(rows)) == [("x", "w", 1.0), ("y", "w", 1.0)]


def test_buckets_without_a_config_are_not_guessed(tmp_path):
    result = bucketed(bad=["a1"], good=["a2"])
    path = write(tmp_path, [task(1, annotation(1, 7, result), data=items("x", "y"))])
    with pytest.raises(UserError, match="give the project's labelling config"):
        converted(path)


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
    rows, report = converted(write(tmp_path, tasks))
    assert pairs_of(rows) == [("good", "bad", 1.0)]
    assert report["dropped"] == {
        "a rating by nobody named, comparable with no other": 1,
        "a rating that is no number": 1,
        "rated as all others of its prompt": 2,
        "the only rating of its prompt by its annotator": 2,
    }
    rows, _ = converted(write(tmp_path, tasks), ties="half")
    assert pairs_of(rows) == [("good", "bad", 0.75)]


def test_left_is_the_first_name_in_to_name(tmp_path):
    config = tmp_path / "pairwise.xml"
    config.write_text(PAIR_CONFIG)
    data = {"question": "q", "first": "one", "second": "two"}
    result = [region("pairwise", "better", {"selected": "left"})]
    path = write(tmp_path, [task(1, annotation(1, 7, result), data=data)])
    rows, _ = converted(path, label_config=str(config))
    assert rows[0][0]["prompt"] == "q"
    assert pairs_of(rows) == [("two", "one", 1.0)]


def test_with_several_controls_one_must_be_named(tmp_path):
    result = [*chosen("left"), region("pairwise", "safer", {"selected": "right"})]
    path = write(tmp_path, [task(1, annotation(1, 7, result))])
    with pytest.raises(UserError, match=r"comparison, safer.*--label_control"):
        converted(path)
    rows, _ = converted(path, label_control="safer")
    assert pairs_of(rows) == [RIGHT]
    with pytest.raises(
        UserError, match=r"the control nicer .* is not in the export, which has comparison, safer"
    ):
        converted(path, label_control="nicer")


@pytest.mark.parametrize("form", ["json", "csv"])
def test_json_min_and_csv_say_the_same_as_json_less_what_was_skipped(tmp_path, form):
    texts = {"prompt": "说一句话\n再说", "answer1": 'she said "ok", 👩‍🚀', "answer2": "=SUM(1)"}
    tasks = [
        task(1, annotation(1, 1, chosen("left")), annotation(2, 2, chosen("right")), data=texts),
        task(2, annotation(3, 1, []), annotation(4, 2, chosen("left"))),
        task(3, annotation(5, 1, [], was_cancelled=True), annotation(6, 2, chosen("none"))),
        task(4),
    ]
    rows, report = converted(write(tmp_path, tasks))
    flat, flat_report = converted(write_flat(tmp_path, tasks, form))
    assert [row for row, _ in flat] == [row for row, _ in rows]
    assert flat_report["annotations"] == report["annotations"] - 1
    dropped = dict(report["dropped"])
    assert dropped.pop("skipped") == 1
    assert flat_report["dropped"] == dropped
    assert flat_report["agreement"] == report["agreement"]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_rankings_come_out_of_flat_exports(tmp_path, form):
    tasks = [task(1, annotation(1, 7, ranked("a2", "a1")), data=items("x", "y"))]
    rows, _ = converted(write_flat(tmp_path, tasks, form))
    assert pairs_of(rows) == [("y", "x", 1.0)]


def test_what_is_no_export_is_said_so(tmp_path):
    path = write(tmp_path, [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(UserError, match=r"is no Label Studio export.*'prompt'"):
        read_export(path)


def test_tasks_that_nobody_has_labelled_are_recognised(tmp_path):
    path = write(tmp_path, [{"data": {"prompt": "p", "answer1": "a", "answer2": "b"}}])
    with pytest.raises(UserError, match="tasks without annotations: import them"):
        read_export(path)
    with pytest.raises(UserError, match="tasks without annotations: import them"):
        list(convert_if_export(read_file(path, stage="reward"), path, ARGS))


def test_no_file_is_written_over_another(tmp_path):
    path = write(tmp_path, three_votes("left"))
    other = str(tmp_path / "other.json")
    for files in ({"output": path}, {"report": path}, {"output": other, "report": other}):
        with pytest.raises(UserError, match="must be different files"):
            AnnotationArgs(**{"export": path, **files})  # type: ignore[arg-type]


def test_tied_questions_are_said_to_be_left_out(tmp_path):
    tasks = [*three_votes("left", "right"), task(2, annotation(9, 1, chosen("left")))]
    _, report = converted(write(tmp_path, tasks), votes="majority")
    assert any("1 questions whose votes are tied" in line for line in format_report(report))


def test_an_export_without_any_vote_is_an_error_with_the_reasons(tmp_path):
    path = write(tmp_path, [task(1, annotation(1, 7, [], was_cancelled=True)), task(2)])
    with pytest.raises(UserError, match=r"no comparison is left of 1 annotations \(1 skipped\)"):
        converted(path)


@pytest.mark.parametrize("extra", ["", "<!-- comment -->"])
def test_a_config_that_is_none_is_named(tmp_path, extra):
    config = tmp_path / "config.xml"
    path = write(tmp_path, [task(1, annotation(1, 7, chosen("left")))])
    for text, message in [
        ("<View", "is no XML"),
        (f"<View>{extra}</View>", "needs one Pairwise"),
        ('<View><Pairwise name="c" toName="a,b"/></View>', "toName of Pairwise"),
    ]:
        config.write_text(text)
        with pytest.raises(UserError, match=message):
            converted(path, label_config=str(config))


def test_left_is_preferred_too_often_is_a_warning(tmp_path):
    tasks = [task(n, annotation(n, 7, chosen("left"))) for n in range(1, 13)]
    _, report = converted(write(tmp_path, tasks))
    assert report["annotators"]["7"]["left"] == 1.0
    assert any("prefers the left side" in warning for warning in report["warnings"])
    mixed = [task(n, annotation(n, 7, chosen("left" if n % 2 else "right"))) for n in range(1, 13)]
    assert converted(write(tmp_path, mixed))[1]["warnings"] == []


def test_unusual_times_are_listed_by_task(tmp_path):
    times = [10.0] * 9 + [0.5, 500.0]
    tasks = [
        task(n, annotation(n, 7, chosen("left" if n % 2 else "right"), lead_time=time))
        for n, time in enumerate(times, start=1)
    ]
    _, report = converted(write(tmp_path, tasks))
    entry = report["annotators"]["7"]
    assert entry["median_seconds"] == 10.0
    assert (entry["too_fast"], entry["too_slow"]) == (["10"], ["11"])


def test_who_is_fast_all_along_is_named(tmp_path):
    def warnings(seconds):
        tasks = [
            task(n, annotation(2 * n, 7, chosen("left" if n % 2 else "right"), lead_time=10.0),
                 annotation(2 * n + 1, 8, chosen("left" if n % 2 else "right"), lead_time=seconds))
            for n in range(1, 9)
        ]  # fmt: skip
        return converted(write(tmp_path, tasks))[1]["warnings"]

    assert warnings(2.4) == [
        "annotator 8 was very fast all along: 2.4 s a task, where the others took 10 s"
    ]
    assert warnings(2.6) == []


def test_the_report_is_json(tmp_path):
    _, report = converted(write(tmp_path, three_votes("left", "right", "left")))
    assert json.loads(json.dumps(report)) == report
