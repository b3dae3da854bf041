"""Write report.html: one file that opens anywhere and loads nothing from elsewhere.

Texts of models and data are escaped: a sample may contain markup.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.evaluation import page
from training.evaluation.charts import Interval, draw_interval_chart
from training.evaluation.summary import (
    Summary,
    add_spaces,
    build_table,
    list_judges,
    list_other_sides,
    list_warnings,
)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl; [] if there is no such file."""
    path = Path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def write_report(
    summary: Summary,
    samples: page.Rows,
    curves: Mapping[str, page.Rows],
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
    `groups_are` names what the intervals resample, for example films.
    """
    table = build_table(summary, labels=labels)
    words = " ".join([*table[0], *(row[0] for row in table)])
    terms = [sentence for term, sentence in page.TEXTS["terms"].items() if term in words]
    sections = [
        _render_headline(summary, labels, groups_are),
        _render_numbers(summary, labels),
        _render_verdict(summary, kl_target),
        "<h2>The comparison</h2>",
        page.render_table(table),
        f'<div class="terms">{page.render_list(terms)}</div>',
        _render_win_rates(summary, labels),
        _render_reward_model(summary),
        _render_samples(samples, labels),
        page.render_learning_curves(curves),
        page.render_notes(notes or page.TEXTS["notes"]),
        _render_seconds(summary),
    ]
    page.write_page(path, title, sections)


def _render_headline(summary: Summary, labels: tuple[str, str], groups_are: str) -> str:
    judges = list_judges(summary)
    if not judges:
        return ""
    entry, (before, after) = summary[judges[0]], labels
    who = "the reward model" if judges[0] == "reward_model_score" else "the judge"
    low, high = entry["win_rate_ci"]
    lead = (
        f"On {summary['prompts']:,} prompts ({summary['groups']:,} {groups_are}), {who} preferred "
        f"{after} to {before} in {entry['win_rate']:.1%} of the pairs "
        f"(95 % interval {low:.1%} to {high:.1%})."
    )
    return f'<p class="lead">{escape(lead)}</p>'


def _render_numbers(summary: Summary, labels: tuple[str, str]) -> str:
    cells = [
        (f"{summary[name]['win_rate']:.1%}", f"{add_spaces(name)}: wins over {labels[0]}")
        for name in list_judges(summary)
    ]
    if summary.get("kl") is not None:
        cells.append((f"{summary['kl']:.1f}", f"nats of KL to {labels[0]}"))
    distinct, length, unit = (summary[key] for key in ("distinct2", "length", "length_unit"))
    cells.append((f"{distinct['after']:.2f}", f"distinct-2, from {distinct['before']:.2f}"))
    cells.append((f"{length['after']:.1f}", f"{unit} per response, from {length['before']:.1f}"))
    return page.render_tiles(cells)


def _render_verdict(summary: Summary, kl_target: float | None) -> str:
    if warnings := list_warnings(summary, kl_target):
        return page.render_warnings("Do not trust the win rate of this run.", warnings)
    kl = "KL, repetition" if kl_target and summary.get("kl") is not None else "Repetition"
    return page.render_all_clear(
        "No warnings.",
        f"{kl}, length and duplicates are within bounds, so the win rate can be trusted.",
    )


def _render_win_rates(summary: Summary, labels: tuple[str, str]) -> str:
    rows = []
    for name in list_judges(summary):
        cells = [(labels[1], summary[name])]
        cells += [(add_spaces(side), summary[side][name]) for side in list_other_sides(summary)]
        rows += [
            Interval(f"{add_spaces(name)}: {label}", cell["win_rate"], *cell["win_rate_ci"])
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


def _render_reward_model(summary: Summary) -> str:
    entry = summary.get("reward_model", {})
    rows = []
    for suffix, label in (("", "all pairs"), ("_gap1", "at least one point apart")):
        if f"accuracy{suffix}" in entry:
            low, high = entry[f"accuracy{suffix}_ci"]
            human = entry.get(f"human_ceiling{suffix}")
            rows.append(Interval(label, entry[f"accuracy{suffix}"], low, high, human))
    if not rows:
        return ""
    chart = draw_interval_chart(rows, low=0.4, high=1.0, reference=0.5)
    note = ""
    if any(row.mark is not None for row in rows):
        note = "; the diamond: how often one human rater per side agrees with the average of all"
    return (
        "<h2>The reward model</h2><h3>Held-out comparisons that it orders as people did, with "
        f'95 % intervals; 0.5 is guessing{note}</h3><div class="card">{chart}</div>'
    )


def _render_samples(samples: page.Rows, labels: tuple[str, str]) -> str:
    if not samples:
        return ""
    names = list(zip(("before", "after"), labels, strict=True))
    cards = "".join(
        page.render_side_by_side(
            str(sample["prompt"]), ((side, label, sample[side]) for side, label in names)
        )
        for sample in samples
    )
    return f"<h2>Samples</h2><h3>Prompts at even distances, not hand-picked</h3>{cards}"


def _render_seconds(summary: Summary) -> str:
    seconds = summary.get("seconds", {}).items()
    spent = ", ".join(f"{escape(add_spaces(stage))} {value:.0f} s" for stage, value in seconds)
    return f"<footer>Time: {spent}.</footer>" if spent else ""
