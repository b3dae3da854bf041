"""The report of a run: one HTML file that opens anywhere, with nothing to load from elsewhere.

Whatever comes from a model or from data is escaped: a sample may well contain markup.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.evaluation.charts import Interval, Point, interval_chart, line_chart
from training.evaluation.comparison import (
    Summary,
    guards,
    judge_names,
    length_unit,
    other_sides,
    reward_model_lines,
    table_rows,
)
from training.evaluation.page import PAGE

Rows = Sequence[Mapping[str, Any]]

# Which metrics share a picture, its title and how to read it; absent ones are left out.
CHARTS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("loss/train", "loss/eval"), "Loss", "lower is better; eval is text kept apart"),
    (("accuracy/train", "accuracy/eval"), "Accuracy", "comparisons ordered as people did"),
    (("score/mean",), "Score", "the reward model's own opinion, which can be fooled"),
    (("kl/ref",), "divergence from the start", "KL in nats per response: how far it has moved"),
    (("policy/entropy",), "Entropy", "nats per token; near zero means it says one thing"),
    (("response/length",), "Response length", "tokens"),
    (("value/explained_variance",), "Explained variance", "how well the critic foresees scores"),
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
        _table(table_rows(summary, labels=labels)),
        _win_rates(summary, labels),
        _reward_model(summary),
        _samples(samples, labels),
        _curves(curves),
        _notes(notes or NOTES),
        _footer(summary),
    ]
    page = PAGE.substitute(title=escape(title), body="\n".join(part for part in body if part))
    Path(path).write_text(page, encoding="utf-8")


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
    tiles = [
        (f"{summary[name]['win_rate']:.1%}", f"{_spaced(name)}: wins over {labels[0]}")
        for name in judge_names(summary)
    ]
    if summary.get("kl") is not None:
        tiles.append((f"{summary['kl']:.1f}", f"nats of KL to {labels[0]}"))
    distinct, length = summary["distinct2"], summary["length"]
    tiles.append((f"{distinct['after']:.2f}", f"distinct-2, from {distinct['before']:.2f}"))
    unit = length_unit(summary)
    tiles.append((f"{length['after']:.1f}", f"{unit} a response, from {length['before']:.1f}"))
    cells = (
        f'<div class="card tile"><div class="big">{escape(big)}</div>'
        f'<div class="what">{escape(what)}</div></div>'
        for big, what in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _guards(summary: Summary, kl_target: float | None) -> str:
    warnings = guards(summary, kl_target)
    if not warnings:
        kl = "KL, repetition" if kl_target and summary.get("kl") is not None else "Repetition"
        return (
            f'<div class="guards"><strong>All guards hold.</strong> {kl}, length and duplicates '
            "are within bounds, so the win rate can be read as it stands.</div>"
        )
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return (
        '<div class="guards broken"><strong>Do not trust the win rate of this run.</strong>'
        f"<ul>{items}</ul></div>"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    lines = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows[1:])
    return (
        '<div class="card scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """An interval is set smaller than the number that it belongs to."""
    number, bracket, interval = text.partition(" [")
    small = f" <small>{escape(bracket.strip() + interval)}</small>" if bracket else ""
    return f"<td>{escape(number)}{small}</td>"


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
    chart = interval_chart(rows, low=low, high=1.0, reference=0.5)
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
    chart = interval_chart(rows, low=0.4, high=1.0, reference=0.5)
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
    sides = "".join(
        f'<div class="{side}"><div class="side-name">{escape(label)}</div>'
        f"{_text(sample[side])}</div>"
        for side, label in zip(("before", "after"), labels, strict=True)
    )
    prompt = escape(str(sample["prompt"]))
    return (
        f'<div class="card sample"><div class="prompt text">{prompt}</div>'
        f'<div class="sides">{sides}</div></div>'
    )


def _text(text: str) -> str:
    if not text.strip():
        return '<div class="empty">(nothing)</div>'
    return f'<div class="text">{escape(text.strip())}</div>'


def _curves(curves: Mapping[str, Rows]) -> str:
    figures = []
    for stage, rows in curves.items():
        for keys, title, reading in CHARTS:
            series = {key.split("/")[-1]: _series(rows, key) for key in keys}
            if chart := line_chart(series):
                caption = f"{escape(stage)}: {title.lower()}<span>{reading}</span>"
                figures.append(
                    f'<figure class="card"><figcaption>{caption}</figcaption>{chart}</figure>'
                )
    if not figures:
        return ""
    return f'<h2>Learning curves</h2><div class="charts">{"".join(figures)}</div>'


def _series(rows: Rows, key: str) -> list[Point]:
    return [
        (float(row["step"]), float(row[key]))
        for row in rows
        if row.get(key) is not None and row.get("step") is not None
    ]


def _notes(notes: Mapping[str, Sequence[str]]) -> str:
    columns = []
    for key, heading in (("shows", "What this shows"), ("does_not_show", "What it does not show")):
        items = "".join(f"<li>{escape(note)}</li>" for note in notes.get(key, ()))
        columns.append(f'<div class="card"><h3>{heading}</h3><ul>{items}</ul></div>')
    return f'<h2>How to read this</h2><div class="notes">{"".join(columns)}</div>'


def _footer(summary: Summary) -> str:
    seconds: Iterable[tuple[str, float]] = summary.get("seconds", {}).items()
    spent = ", ".join(f"{escape(_spaced(stage))} {value:.0f} s" for stage, value in seconds)
    return f"<footer>Time: {spent}.</footer>" if spent else ""


def _spaced(name: str) -> str:
    return name.replace("_", " ")
