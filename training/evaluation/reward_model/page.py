"""The report of stage 2: one HTML page about the reward model that was kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.evaluation import page
from training.evaluation.charts import Interval, draw_interval_chart, draw_reliability_chart
from training.evaluation.reward_model.warnings import format_length_range

Report = Mapping[str, Any]

TEXTS: Any = json.loads(Path(__file__).with_name("page_texts.json").read_text(encoding="utf-8"))


def write_reward_page(report: Report, worst: page.Rows, metrics: page.Rows, path: Path) -> None:
    """`report` is evaluation.json; `worst` has its worst pairs with their texts as prompt, better
    and worse; `metrics` are the rows of metrics.jsonl."""
    title = "Reward model on held-out comparisons"
    if report.get("shuffled_labels"):
        title += " (control: trained on shuffled labels)"
    body = [_render_headline(report), _render_warnings(report)]
    if "calibration" in report:
        body += [_render_baselines(report), _render_calibration(report), *_render_slices(report)]
    body += [
        page.render_learning_curves(
            {"": metrics}, charts=TEXTS["charts"], heading="Score drift over evaluations"
        ),
        page.render_learning_curves({"": metrics}),
        _render_worst(worst),
        page.render_notes(TEXTS["notes"]),
    ]
    page.write_page(path, title, body)


def _render_headline(report: Report) -> str:
    whole = report["all"]
    if not whole["pairs"]:
        return '<p class="lead">No decided comparison is held out, so there is no accuracy.</p>'
    low, high = whole["interval"]
    of = f" of {report['prompts']:,} prompts" if "prompts" in report else ""
    lead = (
        f'<p class="lead">It orders {whole["accuracy"]:.1%} of {whole["pairs"]:,} held-out '
        f"comparisons{of} as people did (95 % interval {low:.1%} to {high:.1%})."
    )
    if report.get("ties"):
        lead += f" {report['ties']:,} ties have no right order and count for calibration alone."
    lead += "</p>"
    if "calibration" not in report:
        return lead
    chance, rule = report["baselines"]["chance"]["interval"], report["baselines"]["length"]
    calibration, correlation = report["calibration"], report["length_correlation"]
    cells = [
        (f"{whole['accuracy']:.1%}", "accuracy"),
        (f"{chance[0]:.0%} to {chance[1]:.0%}", "luck alone"),
        (f"{rule['accuracy']:.1%}", f"always the {rule['prefers']} response"),
        (f"{calibration['ece']:.3f}", "calibration error (ECE)"),
        (
            f"{calibration['brier']:.3f}",
            f"Brier score; undecided: {calibration['brier_undecided']:.3f}",
        ),
    ]
    if correlation is not None:
        cells.append((f"{correlation:+.2f}", "correlation of score and length"))
    return lead + page.render_tiles(cells)


def _render_warnings(report: Report) -> str:
    if not report["warnings"]:
        return page.render_all_clear(
            "No warnings.",
            "Enough is held out, it is better than luck and than counting tokens, and about as "
            "sure as it is right.",
        )
    texts = (warning["text"] for warning in report["warnings"])
    sentences = (f"{text[0].upper()}{text[1:]}." for text in texts)
    return page.render_warnings("Before you trust this reward model:", sentences)


def make_accuracy_row(label: str, part: Report) -> Interval:
    return Interval(label, part["accuracy"], *part["interval"])


def render_accuracies(title: str, rows: Sequence[Interval]) -> str:
    if not rows:
        return ""
    low = 0.0 if any(row.low < 0.3 for row in rows) else 0.3
    chart = draw_interval_chart(rows, low=low, high=1.0, reference=0.5)
    return f'<h3>{escape(title)}</h3><div class="card">{chart}</div>'


def _render_baselines(report: Report) -> str:
    rows = [make_accuracy_row(f"all {report['all']['pairs']:,} comparisons", report["all"])]
    if "gap1" in report:
        rows.append(make_accuracy_row("rated at least one point apart", report["gap1"]))
    rule = report["baselines"]["length"]
    rows.append(make_accuracy_row(f"rule: prefer the {rule['prefers']}", rule))
    rows.append(make_accuracy_row("luck", report["baselines"]["chance"]))
    title = "Accuracy with 95 % intervals; 0.5 is guessing"
    return "<h2>Against its baselines</h2>" + render_accuracies(title, rows)


def _render_calibration(report: Report) -> str:
    calibration = report["calibration"]
    excess = calibration["overconfidence"]
    word = "surer than right" if excess > 0 else "more often right than sure"
    return (
        "<h2>Is it as sure as it is right?</h2>"
        f"<p>On average it is {calibration['confidence']:.1%} sure and "
        f"{calibration['confidence'] - excess:.1%} of people agree: {abs(excess):.1%} {word}.</p>"
        '<div class="charts"><figure class="card"><figcaption>Reliability'
        "<span>across: its chance for the side that it prefers; up: the share of people who "
        "agree. Dots below the line: over-confident</span></figcaption>"
        f"{draw_reliability_chart(calibration['bins'])}</figure></div>"
    )


def _render_slices(report: Report) -> list[str]:
    def render(title: str, key: str, name: Callable[[Report], str]) -> str:
        bins = ((f"{name(part)} ({part['pairs']:,})", part) for part in report[key])
        return render_accuracies(title, [make_accuracy_row(label, part) for label, part in bins])

    people = []
    for name, part in report["by_annotator"].items():
        agree = part["agreement_with_others"]
        others = "" if agree is None else f", others agree {agree:.0%}"
        short = name if len(name) <= 14 else f"{name[:13]}…"
        people.append(make_accuracy_row(f"{short} ({part['pairs']} votes{others})", part))
    points, percent = "{low:.2f} to {high:.2f}".format_map, "{low:.0%} to {high:.0%}".format_map
    found = [
        render("By the size of the score difference: should rise", "by_score_difference", points),
        render("By how far apart people rated the two", "by_gap", points),
        render("By the share of people who agree with the label", "by_raters", percent),
        render(
            "By tokens: the response that people prefer is ...", "by_length", format_length_range
        ),
        render_accuracies("By annotator: votes that the model agrees with", people),
    ]
    return ["<h2>Where it is right</h2>", *found] if any(found) else []


def _render_worst(pairs: page.Rows) -> str:
    if not pairs:
        return ""
    return (
        "<h2>The worst pairs</h2><h3>Where it is surest of the wrong order, each response once: "
        "is the model wrong, or the label?</h3>" + "".join(map(_render_worst_pair, pairs))
    )


def _render_worst_pair(pair: Mapping[str, Any]) -> str:
    votes: Sequence[str] = [
        f"{name} {'agrees' if share > 0.5 else 'disagrees' if share < 0.5 else 'is undecided'}"
        for name, share in pair["votes"].items()
    ]
    lead = f"people prefer it ({pair['label']:.0%})" + (f"; {', '.join(votes)}" if votes else "")
    trail = f"the model prefers it, by {-pair['score_difference']:.2f}"
    return page.render_side_by_side(
        f"{pair['prompt']}\n{pair['source']}",
        (("before", lead, pair["better"]), ("after", trail, pair["worse"])),
    )
