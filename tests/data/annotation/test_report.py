"""The report on annotators and on what became of their annotations."""

import json

from tests.data.annotation.exports import (
    annotation,
    chosen,
    convert_file,
    task,
    three_votes,
    write,
)
from training.data.annotation.report import format_report


def test_the_report_counts_tied_questions_that_are_dropped(tmp_path):
    tasks = [*three_votes("left", "right"), task(2, annotation(9, 1, chosen("left")))]
    _, report = convert_file(write(tmp_path, tasks), votes="majority")
    assert any("1 questions whose votes are tied" in line for line in format_report(report))


def test_a_preference_for_the_left_side_is_a_warning(tmp_path):
    tasks = [task(n, annotation(n, 7, chosen("left"))) for n in range(1, 13)]
    _, report = convert_file(write(tmp_path, tasks))
    assert report["annotators"]["7"]["left"] == 1.0
    assert any("prefers the left side" in warning for warning in report["warnings"])
    mixed = [task(n, annotation(n, 7, chosen("left" if n % 2 else "right"))) for n in range(1, 13)]
    assert convert_file(write(tmp_path, mixed))[1]["warnings"] == []


def test_unusual_times_are_listed_by_task(tmp_path):
    times = [10.0] * 9 + [0.5, 500.0]
    tasks = [
        task(n, annotation(n, 7, chosen("left" if n % 2 else "right"), lead_time=time))
        for n, time in enumerate(times, start=1)
    ]
    _, report = convert_file(write(tmp_path, tasks))
    entry = report["annotators"]["7"]
    assert entry["median_seconds"] == 10.0
    assert (entry["too_fast"], entry["too_slow"]) == (["10"], ["11"])


def test_an_annotator_who_is_always_fast_is_named(tmp_path):
    def warnings(seconds):
        tasks = [
            task(n, annotation(2 * n, 7, chosen("left" if n % 2 else "right"), lead_time=10.0),
                 annotation(2 * n + 1, 8, chosen("left" if n % 2 else "right"), lead_time=seconds))
            for n in range(1, 9)
        ]  # fmt: skip
        return convert_file(write(tmp_path, tasks))[1]["warnings"]

    assert warnings(2.4) == [
        "annotator 8 was very fast all along: 2.4 s a task, where the others took 10 s"
    ]
    assert warnings(2.6) == []


def test_the_report_is_json(tmp_path):
    _, report = convert_file(write(tmp_path, three_votes("left", "right", "left")))
    assert json.loads(json.dumps(report)) == report
