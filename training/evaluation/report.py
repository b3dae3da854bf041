"""The report of a run: one HTML file that opens anywhere, with nothing to load from elsewhere.

Whatever comes from a model or from data is escaped: a sample may well contain markup.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.evaluation.charts import Interval, draw_interval_chart
from training.evaluation.page import (
    Rows,
    render_all_clear,
    render_learning_curves,
    render_notes,
    render_side_by_side,
    render_table,
    render_tiles,
    render_warnings,
    write_page,
)
from training.evaluation.summary import (
    Summary,
    judge_names,
    length_unit,
    list_warnings,
    other_sides,
    reward_model_lines,
    table_rows,
)

NOTES: dict[str, list[str]] = {
    "shows": [
        "Both models answered the same prompts, drawn with the same random numbers, so each "
        "pair differs by the training alone.",
        "The judge had no part in training. Intervals are 95 %, resampled by group of prompts.",
    ],
    "does_not_show": [
        "A win rate alone proves nothing: a model that repeats one pleasing phrase wins too. "
        "Read it beside KL, distinct-2, length and duplicates.",
        "A judge is a measure, not a reader. Look at the samples.",
    ],
}


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none where there is no such file."""
    path = Path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def write_report(
    summary: Summary,
    samples: Rows,
    curves: Mapping[str, Rows],
    path: str | Path,
    *,
    title: str = "Before and after",
    labels: tuple[str, str] = ("SFT", "PPO"),
    kl_target: float | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    groups_are: str = "groups",
) -> None:
    """Write the page.

    `samples` have prompt, before and after; `curves` maps the name of a stage to the rows of
    its metrics.jsonl; `notes` are sentences under "shows" and "does_not_show";
    `groups_are` names what the intervals resample, such as films.
    """
    body = [
        _headline(summary, title, labels, groups_are),
        _guards(summary, kl_target),
        "<h2>The comparison</h2>",
        render_table(table_rows(summary, labels=labels)),
        _win_rates(summary, labels),
        _reward_model(summary),
        _samples(samples, labels),
        render_learning_curves(curves),
        render_notes(notes or NOTES),
        _footer(summary),
    ]
    write_page(path, title, body)


def _headline(summary: Summary, title: str, labels: tuple[str, str], groups_are: str) -> str:
    before, after = (escape(label) for label in labels)
    parts = [f"<h1>{escape(title)}</h1>"]
    if names := judge_names(summary):
        entry = summary[names[0]]
        who = "the reward model" if names[0] == "reward_model_score" else "the judge"
        low, high = entry["win_rate_ci"]
        parts.append(
            f'<p class="lead">On {summary["prompts"]:,} prompts '
            f"({summary['groups']:,} {escape(groups_are)}), {who} preferred {after} to "
            f"{before} in {entry['win_rate']:.1%} of the pairs "
            f"(95 % interval {low:.1%} to {high:.1%}).</p>"
        )
    return "\n".join([*parts, _tiles(summary, labels)])


def _tiles(summary: Summary, labels: tuple[str, str]) -> str:
    cells = [
        (f"{summary[name]['win_rate']:.1%}", f"{_spaced(name)}: wins over {labels[0]}")
        for name in judge_names(summary)
    ]
    if summary.get("kl") is not None:
        cells.append((f"{summary['kl']:.1f}", f"nats of KL to {labels[0]}"))
    distinct, length = summary["distinct2"], summary["length"]
    cells.append((f"{distinct['after']:.2f}", f"distinct-2, from {distinct['before']:.2f}"))
    unit = length_unit(summary)
    cells.append((f"{length['after']:.1f}", f"{unit} a response, from {length['before']:.1f}"))
    return render_tiles(cells)


def _guards(summary: Summary, kl_target: float | None) -> str:
    warnings = list_warnings(summary, kl_target)
    if not warnings:
        kl = "KL, repetition" if kl_target and summary.get("kl") is not None else "Repetition"
        return render_all_clear(
            "No warnings.",
            f"{kl}, length and duplicates are within bounds, so the win rate can be trusted.",
        )
    return render_warnings("Do not trust the win rate of this run.", warnings)


def _win_rates(summary: Summary, labels: tuple[str, str]) -> str:
    rows = []
    for name in judge_names(summary):
        cells = [(labels[1], summary[name])]
        cells += [(_spaced(side), summary[side][name]) for side in other_sides(summary)]
        rows += [
            Interval(f"{_spaced(name)}: {label}", cell["win_rate"], *cell["win_rate_ci"])
            for label, cell in cells
        ]
    if not rows:
        return ""
    low = 0.0 if any(row.low < 0.3 for row in rows) else 0.3
    chart = draw_interval_chart(rows, low=low, high=1.0, reference=0.5)
    return (
        f"<h3>Win rate over {escape(labels[0])}, with 95 % intervals; 0.5 is a draw</h3>"
        f'<div class="card">{chart}</div>'
    )


def _reward_model(summary: Summary) -> str:
    entry = summary.get("reward_model", {})
    rows = [
        Interval(
            label,
            entry[f"accuracy{suffix}"],
            low=entry[f"accuracy{suffix}_ci"][0],
            high=entry[f"accuracy{suffix}_ci"][1],
            mark=entry.get(f"human_ceiling{suffix}"),
        )
        for suffix, label in (("", "all pairs"), ("_gap1", "at least one point apart"))
        if f"accuracy{suffix}" in entry and f"accuracy{suffix}_ci" in entry
    ]
    if not rows:
        lines = "".join(f"<p>{escape(line)}</p>" for line in reward_model_lines(summary))
        return f'<h2>The reward model</h2><div class="card">{lines}</div>' if lines else ""
    chart = draw_interval_chart(rows, low=0.4, high=1.0, reference=0.5)
    human = (
        "; the diamond is how often one human rater a side agrees with the average of all raters"
        if any(row.mark is not None for row in rows)
        else ""
    )
    return (
        "<h2>The reward model</h2><h3>Held-out comparisons that it orders as people did, with "
        f'95 % intervals; 0.5 is guessing{human}</h3><div class="card">{chart}</div>'
    )


def _samples(samples: Rows, labels: tuple[str, str]) -> str:
    if not samples:
        return ""
    cards = "".join(_sample(sample, labels) for sample in samples)
    return f"<h2>Samples</h2><h3>The same prompts, before and after; not picked</h3>{cards}"


def _sample(sample: Mapping[str, Any], labels: tuple[str, str]) -> str:
    sides = zip(("before", "after"), labels, strict=True)
    return render_side_by_side(
        str(sample["prompt"]), ((side, label, sample[side]) for side, label in sides)
    )


def _footer(summary: Summary) -> str:
    seconds: Iterable[tuple[str, float]] = summary.get("seconds", {}).items()
    spent = ", ".join(f"{escape(_spaced(stage))} {value:.0f} s" for stage, value in seconds)
    return f"<footer>Time: {spent}.</footer>" if spent else ""


def _spaced(name: str) -> str:
    return name.replace("_", " ")
