from html.parser import HTMLParser
from math import inf, nan
from xml.etree import ElementTree

import pytest

from training.evaluation.charts import (
    Interval,
    choose_ticks,
    draw_interval_chart,
    draw_line_chart,
    format_number,
)
from training.evaluation.report import read_metrics, write_report
from training.evaluation.summary import compare_responses

VOID = {"meta", "br", "img", "link"}
NASTY = "<script>alert('x')</script> & \"quoted\" <b>"
PROMPTS = [f"Movie: film {n}\nReview: It" for n in range(6)]
BEFORE = [f" was number {n} of the long evening we had there" for n in range(6)]
AFTER = [f" is{n} lovely{n} with{n} a{n} lovely and{n} warm{n} end{n}" for n in range(6)]


def lovely(texts):
    return [float(text.count("lovely")) for text in texts]


@pytest.fixture
def summary():
    summary = compare_responses(
        BEFORE, AFTER, ["a", "b", "c"] * 2, {"judge": lovely}, others={"best_of_4": AFTER}
    )
    summary["kl"] = 5.5
    summary["seconds"] = {"step1_sft": 25.4}
    summary["reward_model"] = {
        "accuracy": 0.69,
        "accuracy_ci": [0.67, 0.71],
        "human_ceiling": 0.801,
    }
    return summary


@pytest.fixture
def samples():
    sides = zip(PROMPTS, BEFORE, AFTER, strict=True)
    return [{"prompt": p, "before": b, "after": a} for p, b, a in sides]


CURVES: dict[str, list[dict[str, float | None]]] = {
    "SFT": [{"step": n, "loss/train": 5 - n / 10, "lr": 0.1} for n in range(10)],
    "PPO": [{"step": n, "score/mean": n / 10, "kl/ref": None} for n in range(10)],
}


class Strict(HTMLParser):
    """Fails on a tag that is closed in the wrong place, and collects what the page says."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def parsed(path):
    page = Strict()
    page.feed(path.read_text("utf-8"))
    page.close()
    assert page.open == []
    return page


def test_the_report_is_whole_and_loads_nothing(summary, samples, tmp_path):
    path = tmp_path / "report.html"
    write_report(summary, samples, CURVES, path, kl_target=6.0)
    page = parsed(path)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not any("src" in attrs or "href" in attrs for _, attrs in page.tags)
    assert "url(" not in path.read_text("utf-8")


def test_the_report_shows_what_the_table_of_the_terminal_shows(summary, samples, tmp_path):
    path = tmp_path / "report.html"
    write_report(summary, samples, CURVES, path, kl_target=6.0, groups_are="films")
    text = " ".join(" ".join(parsed(path).words).split())
    assert "On 6 prompts (3 films), the judge preferred PPO to SFT in 100.0% of the pairs" in text
    for expected in ("best of 4", "KL to SFT, nats", "No warnings.", "step1 sft 25 s", "0.690"):
        assert expected in text


def test_whatever_comes_from_outside_is_escaped(summary, tmp_path):
    path = tmp_path / "report.html"
    summary["seconds"] = {NASTY: 1.0}
    summary["judge<script>"] = summary.pop("judge")
    summary["best_of_4"]["judge<script>"] = summary["best_of_4"].pop("judge")
    sample = {"prompt": NASTY, "before": NASTY, "after": NASTY}
    curves = {NASTY: [{"step": 1, "loss/train": 1.0}, {"step": 2, "loss/train": 2.0}]}
    notes = {"shows": [NASTY], "does_not_show": [NASTY]}
    write_report(
        summary, [sample], curves, path, title=NASTY, labels=(NASTY, NASTY), notes=notes,
        groups_are=NASTY,
    )  # fmt: skip
    page = parsed(path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "b" not in {tag for tag, _ in page.tags}
    assert page.words.count(NASTY) >= 5  # and it is shown as it was written


def test_warnings_come_before_the_table(summary, samples, tmp_path):
    path = tmp_path / "report.html"
    summary["kl"] = 102.0
    write_report(summary, samples, CURVES, path, kl_target=6.0)
    text = path.read_text("utf-8")
    assert "No warnings" not in text
    assert text.index("102.0 nats") < text.index("<h2>The comparison")


@pytest.mark.parametrize(("target", "named"), [(6.0, True), (None, False)])
def test_kl_is_called_within_bounds_only_where_it_was_checked(summary, tmp_path, target, named):
    path = tmp_path / "report.html"
    write_report(summary, [], {}, path, kl_target=target)
    text = path.read_text("utf-8")
    assert "No warnings" in text
    assert ("KL, repetition, length and duplicates" in text) is named


def test_samples_are_side_by_side_and_an_empty_one_is_named(summary, tmp_path):
    path = tmp_path / "report.html"
    sample = {"prompt": "a prompt", "before": " the first ", "after": " "}
    write_report(summary, [sample], {}, path)
    words = parsed(path).words
    assert words.index("the first") < words.index("(nothing)")


def test_a_report_needs_no_judge_curves_or_samples(tmp_path):
    path = tmp_path / "report.html"
    write_report(compare_responses(BEFORE, AFTER, ["a"] * 6, {}), [], {}, path)
    text = path.read_text("utf-8")
    assert "Learning curves" not in text
    assert "Samples" not in text


def test_metrics_of_a_stage_that_did_not_run_are_no_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1, "loss/train": 2.5}\n{"step": 2, "loss/train": null}\n')
    assert read_metrics(path)[1] == {"step": 2, "loss/train": None}


def points_of(chart):
    (line,) = ElementTree.fromstring(chart).iter("polyline")
    return [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]


def test_a_line_goes_from_its_first_to_its_last_point():
    chart = draw_line_chart({"train": [(0.0, 4.0), (5.0, 3.0), (10.0, 2.0)]})
    (x0, y0), (x1, y1), (x2, y2) = points_of(chart)
    assert x0 < x1 < x2
    assert y0 < y1 < y2  # down the page: the loss falls
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)


def test_values_that_are_no_numbers_are_left_out_of_a_line():
    chart = draw_line_chart({"a": [(0, 1.0), (1, nan), (2, inf), (3, 2.0)]})
    assert len(points_of(chart)) == 2
    assert "nan" not in chart
    assert draw_line_chart({"a": [(0, nan)]}) == ""
    assert draw_line_chart({}) == ""


def test_a_long_line_is_thinned_and_keeps_its_end():
    chart = draw_line_chart({"a": [(float(n), float(n)) for n in range(10_001)]})
    assert len(points_of(chart)) <= 402
    assert "a: 10k at step 10k" in chart


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 0.0), (2, 0.0)], [(3, -2.0), (3, 5.0)]])
def test_a_flat_or_single_point_line_can_be_drawn(points):
    ElementTree.fromstring(draw_line_chart({"a": points}))


def test_an_interval_chart_places_values_in_order():
    rows = [Interval("first", 0.6, 0.5, 0.7), Interval("second", 0.9, 0.85, 1.2, mark=0.95)]
    chart = ElementTree.fromstring(draw_interval_chart(rows, low=0.3, high=1.0, reference=0.5))
    first, second = (float(dot.attrib["cx"]) for dot in chart.iter("circle"))
    assert first < second
    bars = [node.attrib for node in chart.iter("line") if node.attrib["class"] == "bar"]
    assert all(float(bar["x1"]) < float(bar["x2"]) for bar in bars)
    edges = [node for node in chart.iter("line") if node.attrib["class"] == "reference"]
    assert len(edges) == 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.0, 40.0, [0.0, 10.0, 20.0, 30.0, 40.0]),
        (-0.1, 1.9, [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0]),
    ],
)
def test_ticks_are_round_numbers_that_cover_the_data(low, high, expected):
    assert choose_ticks(low, high, 4) == expected


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.25, "0.25"), (0.0001, "1e-04"), (25_000.0, "25k")]
)
def test_numbers_of_an_axis_are_short(value, text):
    assert format_number(value) == text
