"""Formats, labelling configs and controls of exports, and what is refused."""

import pytest

from tests.data.annotation.exports import (
    ARGS,
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
from training.arguments.annotation import AnnotationArgs
from training.arguments.parsing import UserError
from training.data.annotation.convert import convert_if_export
from training.data.annotation.export import read_export
from training.data.files import read_file

PAIR_CONFIG = """<View><Text name="q" value="$question"/>
<Pairwise name="better" toName="two,one"/>
<Text name="one" value="$first"/><Text name="two" value="$second"/></View>"""


def test_left_is_the_first_name_in_to_name(tmp_path):
    config = tmp_path / "pairwise.xml"
    config.write_text(PAIR_CONFIG)
    data = {"question": "q", "first": "one", "second": "two"}
    result = [region("pairwise", "better", {"selected": "left"})]
    path = write(tmp_path, [task(1, annotation(1, 7, result), data=data)])
    rows, _ = convert_file(path, label_config=str(config))
    assert rows[0][0]["prompt"] == "q"
    assert list_pairs(rows) == [("two", "one", 1.0)]


def test_with_several_controls_one_must_be_named(tmp_path):
    result = [*chosen("left"), region("pairwise", "safer", {"selected": "right"})]
    path = write(tmp_path, [task(1, annotation(1, 7, result))])
    with pytest.raises(UserError, match=r"comparison, safer.*--label_control"):
        convert_file(path)
    rows, _ = convert_file(path, label_control="safer")
    assert list_pairs(rows) == [RIGHT]
    with pytest.raises(
        UserError, match=r"the control nicer .* is not in the export, which has comparison, safer"
    ):
        convert_file(path, label_control="nicer")


@pytest.mark.parametrize("form", ["json", "csv"])
def test_json_min_and_csv_give_the_rows_of_json_without_the_skipped_annotations(tmp_path, form):
    texts = {"prompt": "说一句话\n再说", "answer1": 'she said "ok", 👩‍🚀', "answer2": "=SUM(1)"}
    tasks = [
        task(1, annotation(1, 1, chosen("left")), annotation(2, 2, chosen("right")), data=texts),
        task(2, annotation(3, 1, []), annotation(4, 2, chosen("left"))),
        task(3, annotation(5, 1, [], was_cancelled=True), annotation(6, 2, chosen("none"))),
        task(4),
    ]
    rows, report = convert_file(write(tmp_path, tasks))
    flat, flat_report = convert_file(write_flat(tmp_path, tasks, form))
    assert [row for row, _ in flat] == [row for row, _ in rows]
    assert flat_report["annotations"] == report["annotations"] - 1
    dropped = dict(report["dropped"])
    assert dropped.pop("skipped") == 1
    assert flat_report["dropped"] == dropped
    assert flat_report["agreement"] == report["agreement"]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_rankings_come_out_of_flat_exports(tmp_path, form):
    tasks = [task(1, annotation(1, 7, ranked("a2", "a1")), data=items("x", "y"))]
    rows, _ = convert_file(write_flat(tmp_path, tasks, form))
    assert list_pairs(rows) == [("y", "x", 1.0)]


def test_a_file_that_is_no_export_is_refused(tmp_path):
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


def test_an_export_without_any_vote_is_an_error_with_the_reasons(tmp_path):
    path = write(tmp_path, [task(1, annotation(1, 7, [], was_cancelled=True)), task(2)])
    with pytest.raises(UserError, match=r"no comparison is left of 1 annotations \(1 skipped\)"):
        convert_file(path)


@pytest.mark.parametrize("extra", ["", "<!-- comment -->"])
def test_a_bad_labelling_config_is_refused(tmp_path, extra):
    config = tmp_path / "config.xml"
    path = write(tmp_path, [task(1, annotation(1, 7, chosen("left")))])
    for text, message in [
        ("<View", "is no XML"),
        (f"<View>{extra}</View>", "needs one Pairwise"),
        ('<View><Pairwise name="c" toName="a,b"/></View>', "toName of Pairwise"),
    ]:
        config.write_text(text)
        with pytest.raises(UserError, match=message):
            convert_file(path, label_config=str(config))
