"""Whatever a file holds: clean errors or counted drops, never a traceback or a silent loss."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.data.annotation.exports import annotation, chosen, items, ranked, rated, task
from training.arguments.annotation import VoteArgs
from training.arguments.parsing import UserError
from training.data.annotation.convert import convert_tasks
from training.data.annotation.export import read_export
from training.data.files import read_file
from training.data.records import parse_group

GOOD: list[dict[str, Any]] = [
    task(1, annotation(1, 1, chosen("left")), annotation(2, 2, chosen("right"))),
    task(2, annotation(3, 1, [], was_cancelled=True), annotation(4, 2, chosen("none"))),
    task(3, annotation(5, 1, chosen("right")), drafts=[{"result": []}], predictions=[3]),
]
RANKED = [task(1, annotation(1, 1, ranked("a2", "a1", "a3")), data=items("x", "y", "z"))]
RATED = [
    task(n, annotation(n, 1, rated(n)), data={"prompt": "p", "response": f"r{n}"}) for n in (1, 2)
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result of a call, or the message of its `UserError`."""
    try:
        return call(), ""
    except UserError as error:
        return None, str(error) or "an error without a message"


def account(path: str, **changes: Any) -> None:
    """Convert, or a `UserError`; all annotations are accounted for, and stage 2 takes the rows."""
    tasks, message = attempt(lambda: read_export(path))
    if message:
        return
    found, message = attempt(lambda: convert_tasks(tasks, path, VoteArgs(**changes)))
    if message:
        return
    rows, report = found
    assert report["used"] + sum(report["dropped"].values()) == report["annotations"]
    assert report["annotations"] == sum(len(one.annotations) for one in tasks)
    json.dumps(report)
    for row, source in rows:
        parse_group(row, source)


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inside = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list) else ()
    )  # fmt: skip
    return [at] + [path for key, item in inside for path in paths_in(item, (*at, key))]


def changed(value: Any, place: tuple[Any, ...], new: Any, delete: bool) -> Any:
    value = json.loads(json.dumps(value))
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    if delete:
        del holder[place[-1]]
    else:
        holder[place[-1]] = new
    return value


@given(data=st.data(), ties=st.sampled_from(["drop", "half"]))
def test_any_value_of_an_export_may_be_anything(tmp_path, data, ties):
    tasks = data.draw(st.sampled_from([GOOD, RANKED, RATED]))
    for _ in range(data.draw(st.integers(1, 3))):
        places = [path for path in paths_in(tasks) if path]
        if not places:
            break
        place = data.draw(st.sampled_from(places))
        tasks = changed(tasks, place, data.draw(ANYTHING), delete=data.draw(st.booleans()))
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks), encoding="utf-8")
    account(str(file), ties=ties)


@given(cut=st.integers(0, 3000), junk=st.binary(max_size=6), place=st.integers(0, 3000))
def test_a_file_may_be_cut_or_hold_any_bytes(tmp_path, cut, junk, place):
    text = json.dumps(GOOD, ensure_ascii=False).encode()
    for name, content in [
        ("cut.json", text[:cut]),
        ("junk.json", text[:place] + junk + text[place:]),
        ("junk.csv", b"id,annotator,annotation_id,comparison,prompt\n" + junk),
        ("junk.jsonl", text[1:-1] + junk),
    ]:
        file = tmp_path / name
        file.write_bytes(content)
        account(str(file))
        _, message = attempt(partial(read_file, str(file), stage="reward"))
        assert not message or message.startswith(str(file))


@given(row=st.dictionaries(st.sampled_from(
    ["prompt", "chosen", "rejected", "responses", "pairs", "gaps", "label", "weight", "margin",
     "annotator", "votes"]
), ANYTHING))  # fmt: skip
def test_a_row_of_stage_2_may_hold_anything(row):
    group, message = attempt(lambda: parse_group(row, "file:1"))
    if message:
        assert message.startswith("file:1: ")
        return
    assert all(text.strip() for text in group.responses)
    assert all(0.0 <= pair.label <= 1.0 and pair.weight > 0 for pair in group.pairs)
    assert all(name.strip() and 0 <= share <= 1 for p in group.pairs for name, share in p.votes)


def test_deep_and_large_exports_end_in_an_error_or_a_result(tmp_path):
    file = tmp_path / "export.json"
    file.write_text("[" * 200_000)
    account(str(file))
    many = [task(n, annotation(n, n % 3, chosen("left"))) for n in range(1, 3001)]
    many[0]["data"]["answer1"] = "long " * 500_000
    file.write_text(json.dumps(many))
    account(str(file))
