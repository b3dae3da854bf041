"""The report of stage 2: one HTML page about the reward model that was kept."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.evaluation.charts import (
    Dot,
    Interval,
    draw_interval_chart,
    draw_reliability_chart,
)
from training.evaluation.page import (
    Charts,
    Rows,
    render_all_clear,
    render_learning_curves,
    render_notes,
    render_side_by_side,
    render_tiles,
    render_warnings,
    write_page,
)
from training.evaluation.reward_model.warnings import format_length_range

Report = Mapping[str, Any]

DRIFT: Charts = (
    (("score/eval_mean",), "Mean score", "raw; training fixes differences only, so it may wander"),
    (("score/eval_std",), "Spread of scores", "standard deviation; growth makes it surer"),
    (("score/eval_turned",), "Turned comparisons", "share whose order is not the one before's"),
    (("score/eval_length_correlation",), "Correlation with length", "of score and token counts"),
    (("calibration/ece",), "Calibration error", "0 where it is as sure as it is right"),
    (("calibration/brier",), "Brier score", "squared distance of its chance from the label"),
)
NOTES = {
    "shows": [
        "No prompt of these comparisons was trained on. Intervals are 95 %; comparisons of one "
        "prompt share responses, so prompts are resampled.",
        "Luck is this model's scores shuffled among the responses of each prompt, a thousand "
        "times: what a model that knows nothing reaches on these comparisons. Nothing is trained "
        "for it. --shuffle_labels is the trained control: a whole model on shuffled labels, whose "
        "own report should say that it is no better than chance.",
        "The length rule is chosen on the training comparisons and judged on these.",
        "The calibration error is the mean distance of the dots from the dashed line, weighted by "
        "comparisons; with few of them it is above 0 by luck alone.",
    ],
    "does_not_show": [
        "The kept model is the best of the run's evaluations on these same comparisons, so its "
        "accuracy is slightly optimistic.",
        "Held-out responses are like those trained on. PPO moves away from them, and will find "
        "what the reward model gets wrong: watch KL, length and an independent judge there.",
        "People who agree can be wrong together. Read the worst pairs.",
    ],
}


def write_reward_page(report: Report, worst: Rows, metrics: Rows, path: Path) -> None:
    """`report` is evaluation.json; `worst` has its worst pairs with their texts as prompt, better
    and worse; `metrics` are the rows of metrics.jsonl."""
    title = "Reward model on held-out comparisons"
    if report.get("shuffled_labels"):
        title += " (control: trained on shuffled labels)"
    body = [_render_headline(report), _render_warnings(report)]
    if "calibration" in report:
        body += [_render_baselines(report), _render_calibration(report), *_render_slices(report)]
    body += [
        render_learning_curves({"": metrics}, charts=DRIFT, heading="Score drift over evaluations"),
        render_learning_curves({"": metrics}),
        _render_worst(worst),
        render_notes(NOTES),
    ]
    write_page(path, title, body)


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
    return lead + render_tiles(cells)


def _render_warnings(report: Report) -> str:
    if not report["warnings"]:
        return render_all_clear(
            "No warnings.",
            "Enough is held out, it is better than luck and than counting tokens, and about as "
            "sure as it is right.",
        )
    sentences = (_make_sentence(warning["text"]) for warning in report["warnings"])
    return render_warnings("Before you trust this reward model:", sentences)


def _make_sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def make_accuracy_row(label: str, part: Report) -> Interval:
    return Interval(label, part["accuracy"], *part["interval"])


def render_accuracies(title: str, rows: Iterable[Interval]) -> str:
    found = list(rows)
    if not found:
        return ""
    low = 0.0 if any(row.low < 0.3 for row in found) else 0.3
    chart = draw_interval_chart(found, low=low, high=1.0, reference=0.5)
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
    dots = [Dot(p["confidence"], p["agreement"], p["pairs"]) for p in calibration["bins"]]
    excess = calibration["overconfidence"]
    word = "surer than right" if excess > 0 else "more often right than sure"
    return (
        "<h2>Is it as sure as it is right?</h2>"
        f"<p>On average it is {calibration['confidence']:.1%} sure and "
        f"{calibration['confidence'] - excess:.1%} of people agree: {abs(excess):.1%} {word}.</p>"
        '<div class="charts"><figure class="card"><figcaption>Reliability'
        "<span>across: its chance for the side that it prefers; up: the share of people who "
        "agree. Dots below the line: over-confident</span></figcaption>"
        f"{draw_reliability_chart(dots)}</figure></div>"
    )


def _render_slices(report: Report) -> list[str]:
    gaps = [(_format_range(p, "{:.2f}"), p) for p in report["by_gap"]]
    raters = [(_format_range(p, "{:.0%}"), p) for p in report["by_raters"]]
    sure = [(_format_range(p, "{:.2f}"), p) for p in report["by_score_difference"]]
    lengths = [(format_length_range(p), p) for p in report["by_length"]]
    people = []
    for name, part in report["by_annotator"].items():
        agree = part["agreement_with_others"]
        others = "" if agree is None else f", others agree {agree:.0%}"
        people.append((f"{_shorten(name)} ({part['pairs']} votes{others})", part))
    found = [
        render_accuracies(
            title, (make_accuracy_row(_add_count(label, part), part) for label, part in rows)
        )
        for title, rows in (
            ("By the size of the score difference: should rise", sure),
            ("By how far apart people rated the two", gaps),
            ("By the share of people who agree with the label", raters),
            ("By tokens: the response that people prefer is ...", lengths),
            ("By annotator: votes that the model agrees with", people),
        )
    ]
    return ["<h2>Where it is right</h2>", *found] if any(found) else []


def _add_count(label: str, part: Report) -> str:
    return label if "others" in part else f"{label} ({part['pairs']:,})"


def _format_range(part: Report, form: str) -> str:
    return f"{form.format(part['low'])} to {form.format(part['high'])}"


def _shorten(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"


def _render_worst(pairs: Rows) -> str:
    if not pairs:
        return ""
    cards = "".join(_render_worst_pair(pair) for pair in pairs)
    return (
        "<h2>The worst pairs</h2><h3>Where it is surest of the wrong order, each response once: "
        "is the model wrong, or the label?</h3>" + cards
    )


def _render_worst_pair(pair: Mapping[str, Any]) -> str:
    votes: Sequence[str] = [
        f"{name} {'agrees' if share > 0.5 else 'disagrees' if share < 0.5 else 'is undecided'}"
        for name, share in pair["votes"].items()
    ]
    lead = f"people prefer it ({pair['label']:.0%})" + (f"; {', '.join(votes)}" if votes else "")
    trail = f"the model prefers it, by {-pair['score_difference']:.2f}"
    return render_side_by_side(
        f"{pair['prompt']}\n{pair['source']}",
        (("before", lead, pair["better"]), ("after", trail, pair["worse"])),
    )
