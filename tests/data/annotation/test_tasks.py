import math

import pytest

from training.data.annotation.config import LabelConfig, parse_config
from training.data.annotation.tasks import (
    PAIRWISE_CONFIG,
    RANKER_CONFIG,
    Sampled,
    add_prediction,
    make_pairwise_tasks,
    make_ranker_task,
    measure_likeness,
    select_distinct,
    sort_by_certainty,
)


def sampled(*texts: str, temperature: float = 1.0) -> list[Sampled]:
    return [Sampled(text, temperature, n) for n, text in enumerate(texts)]


FOUR = sampled("one one", "two two", "three three", "four four")


def sides(task) -> frozenset[str]:
    return frozenset((task["data"]["answer1"], task["data"]["answer2"]))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("A cat sat.", "a cat, sat", 1.0),
        ("a cat sat", "a dog sat", 2 / 3),
        ("a b", "c d", 0.0),
        ("我喜欢雨", "我喜欢雪", 3 / 4),
        ("", "", 1.0),
    ],
)
def test_likeness_is_the_share_of_words_in_order(first, second, expected):
    assert measure_likeness(first, second) == pytest.approx(expected)


def test_duplicates_near_duplicates_and_empty_responses_are_skipped():
    candidates = sampled("a b c d e", "a b c d e!", "  ", "a b c d x", "f g h")
    kept = select_distinct(candidates, 5, most_alike=0.7)
    assert [response.text for response in kept] == ["a b c d e", "f g h"]
    assert len(select_distinct(candidates, 5, most_alike=0.9)) == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fine\n\ttext", True),
        ("汉字 \u00e9 👩\u200d🚀", True),
        ("a\x00b", False),
        ("\x12", False),
        (" ", False),
    ],
)
def test_control_characters_are_not_shown_to_people(text, shown):
    assert bool(select_distinct(sampled(text), 1, most_alike=0.5)) == shown


def test_responses_come_from_as_many_temperatures_as_there_are():
    cold = sampled("a", "b", "c", temperature=0.5)
    hot = sampled("x", "y", "z", temperature=1.5)
    kept = select_distinct([*cold, *hot], 4, most_alike=0.5)
    assert sorted(response.temperature for response in kept) == [0.5, 0.5, 1.5, 1.5]


@pytest.mark.parametrize(("pairs", "count"), [(1, 1), (2, 2), (5, 5), (0, 6), (9, 6)])
def test_there_are_as_many_comparisons_as_asked_for_and_none_twice(pairs, count):
    tasks = make_pairwise_tasks("p", FOUR, pairs=pairs, seed="0")
    assert len(tasks) == len({sides(task) for task in tasks}) == count


def test_the_first_comparisons_use_each_response_once():
    first, second = make_pairwise_tasks("p", FOUR, pairs=2, seed="3")
    assert sides(first) | sides(second) == {response.text for response in FOUR}


def test_left_and_right_are_drawn_and_the_origin_stays_with_its_answer():
    lefts = []
    for seed in range(60):
        (task,) = make_pairwise_tasks("p", FOUR[:2], pairs=1, seed=str(seed))
        data = task["data"]
        for side in "12":
            source = FOUR[data[f"origin{side}"]["sample"]]
            assert source.text == data[f"answer{side}"]
        lefts.append(data["answer1"])
    assert 15 < lefts.count("one one") < 45
    assert make_pairwise_tasks("p", FOUR, pairs=2, seed="7") == make_pairwise_tasks(
        "p", FOUR, pairs=2, seed="7"
    )


def test_a_rankers_items_are_shuffled_with_ids_that_are_no_numbers():
    orders = set()
    for seed in range(20):
        data = make_ranker_task("p", FOUR, seed=str(seed))["data"]
        assert [item["id"] for item in data["items"]] == ["a1", "a2", "a3", "a4"]
        for item in data["items"]:
            assert FOUR[data["origins"][item["id"]]["sample"]].text == item["body"]
        orders.add(tuple(item["body"] for item in data["items"]))
    assert len(orders) > 5


def test_a_prediction_holds_a_side_and_its_certainty():
    task = make_pairwise_tasks("p", FOUR[:2], pairs=1, seed="0")[0]
    found = add_prediction(task, (1.0, 3.0), model_version="rm")["predictions"][0]
    assert found["result"][0]["value"] == {"selected": "right"}
    assert found["score"] == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-6)
    assert found["model_version"] == "rm"


def test_the_least_certain_comparison_comes_first():
    task = make_pairwise_tasks("p", FOUR[:2], pairs=1, seed="0")[0]
    gaps = [3.0, 0.1, -1.0]
    tasks = [add_prediction(task, (gap, 0.0), model_version="rm") for gap in gaps]
    ordered = [entry["predictions"][0]["score"] for entry in sort_by_certainty(tasks)]
    assert ordered == sorted(ordered)
    assert ordered[0] == pytest.approx(1 / (1 + math.exp(-0.1)), abs=1e-6)


def test_the_pages_are_read_back_as_what_they_ask():
    expected = LabelConfig(
        prompt="prompt", answers=("answer1", "answer2"), control="comparison", kind="pairwise"
    )
    assert parse_config(PAIRWISE_CONFIG, "page.xml") == expected
    assert parse_config(RANKER_CONFIG, "page.xml") == LabelConfig(
        prompt="prompt", items="items", control="rank", kind="ranker"
    )
