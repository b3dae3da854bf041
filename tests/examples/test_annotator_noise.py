"""Simulated annotators vote as they are told to, in a form that the importer takes whole."""

import json

import pytest

from examples.movie_reviews.annotator_noise import NoiseArgs, make_export
from training.arguments.annotation import AnnotationArgs
from training.arguments.parsing import UserError
from training.data.annotation.convert import convert_tasks
from training.data.annotation.export import read_export

GROUPS = [
    {
        "prompt": f"film {n}",
        "responses": ["the best", "the middle", "the worst"],
        "pairs": [[0, 1, 1.0], [0, 2, 1.0], [1, 2, 1.0]],
    }
    for n in range(200)
]
ORDER = {"the best": 0, "the middle": 1, "the worst": 2}


def right_votes(tasks):
    """Of each vote, whether it is for the better answer."""
    found = []
    for task in tasks:
        left, right = (ORDER[task["data"][name]] for name in ("answer1", "answer2"))
        better = "left" if left < right else "right"
        for annotation in task["annotations"]:
            [region] = annotation["result"]
            found.append(region["value"]["selected"] == better)
    return found


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_as_many_votes_are_against_their_opinion_as_was_asked_for(noise):
    tasks = make_export(GROUPS, tasks=600, annotators=3, noise=noise, seed=0)
    votes = right_votes(tasks)
    assert len(votes) == 1800
    # Four standard errors of a share of 1,800 votes.
    assert 1.0 - sum(votes) / len(votes) == pytest.approx(noise, abs=4 * (noise / 1800) ** 0.5)


def test_opinions_are_as_divided_as_the_label():
    groups = [{**group, "pairs": [[0, 1, 0.75]]} for group in GROUPS]
    votes = right_votes(make_export(groups, tasks=200, annotators=9, noise=0.0, seed=0))
    assert sum(votes) / len(votes) == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 1800) ** 0.5)


def test_the_better_answer_is_on_either_side_and_a_seed_repeats_it():
    tasks = make_export(GROUPS, tasks=600, annotators=1, noise=0.0, seed=3)
    sides = [t["annotations"][0]["result"][0]["value"]["selected"] for t in tasks]
    assert 200 < sides.count("left") < 400
    assert tasks == make_export(GROUPS, tasks=600, annotators=1, noise=0.0, seed=3)
    assert tasks != make_export(GROUPS, tasks=600, annotators=1, noise=0.0, seed=4)


def test_the_importer_uses_every_vote(tmp_path):
    file = tmp_path / "export.json"
    file.write_text(json.dumps(make_export(GROUPS, tasks=600, annotators=3, noise=0.2, seed=0)))
    args = AnnotationArgs(export=str(file), votes="all", annotator_error="auto")
    _, report = convert_tasks(read_export(str(file)), str(file), args)
    assert report["annotations"] == report["used"] == report["pairs"] == 1800
    assert len(report["annotators"]) == 3


def test_noise_beyond_a_coin_is_refused():
    with pytest.raises(UserError, match="--noise"):
        NoiseArgs(noise=[0.1, 0.5])
