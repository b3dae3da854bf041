"""Write report.html: one file that opens anywhere and loads nothing from elsewhere.

Texts of models and data are escaped: a sample may contain markup.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.evaluation.charts import Interval, draw_interval_chart
from training.evaluation.page import (
    Rows,
    render_all_clear,
    render_learning_curves,
    render_list,
    render_notes,
    render_side_by_side,
    render_table,
    render_tiles,
    render_warnings,
    write_page,
)
from training.evaluation.summary import (
    Summary,
    add_spaces,
    build_table,
    list_judges,
    list_other_sides,
    list_warnings,
    read_length_unit,
)

NOTES: dict[str, list[str]] = {
    "shows": [
        "Both models answered the same prompts, sampled with the same random numbers, so the "
        "pairs differ by the training alone.",
        "The judge had no part in training. Intervals are 95 %, resampled by group of prompts.",
    ],
    "does_not_show": [
        "A win rate alone proves nothing: a model that repeats one pleasing phrase wins too. "
        "Read it beside KL, distinct-2, length and duplicates.",
        "A judge is a measure, not a reader. Look at the samples.",
    ],
}

# Words of the table and what they mean.
TERMS = {
    ", mean": "Mean: the average score by that judge, on a scale of its own. Higher is better.",
    "win rate": "Win rate: how often the judge scores a response higher than the first model's to "
    "the same prompt. A tie counts one half; 0.5 is a draw. In brackets: the 95 % interval.",
    "reward model score": "Reward model score: what PPO was trained to raise.",
    "words": "Words: the average length of a response.",
    "characters": "Characters: the average length of a response.",
    "distinct-2": "Distinct-2: the share of different pairs among all pairs of neighbouring words, "
    "or characters. A low share means repetition.",
    "duplicates": "Duplicates: responses equal to the response to another prompt.",
    "perplexity": "Perplexity: how surprised an independent language model is by the text. "
    "Lower is more fluent.",
    "KL": "KL: how far a model has moved from the first one, per response; 0 is no change.",
    "best of": "Best of n: of n responses of the first model, the one with the highest reward.",
}


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl; [] if there is no such file."""
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
    `groups_are` names what the intervals resample, for example films.
    """
    table = build_table(summary, labels=labels)
    sections = [
        _render_headline(summary, labels, groups_are),
        _render_numbers(summary, labels),
        _render_verdict(summary, kl_target),
        "<h2>The comparison</h2>",
        render_table(table),
        f'<div class="terms">{render_list(explain_terms(table))}</div>',
        _render_win_rates(summary, labels),
        _render_reward_model(summary),
        _render_samples(samples, labels),
        render_learning_curves(curves),
        render_notes(notes or NOTES),
        _render_seconds(summary),
    ]
    write_page(path, title, sections)


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
    distinct, length = summary["distinct2"], summary["length"]
    cells.append((f"{distinct['after']:.2f}", f"distinct-2, from {distinct['before']:.2f}"))
    unit = read_length_unit(summary)
    cells.append((f"{length['after']:.1f}", f"{unit} per response, from {length['before']:.1f}"))
    return render_tiles(cells)


def _render_verdict(summary: Summary, kl_target: float | None) -> str:
    if warnings := list_warnings(summary, kl_target):
        return render_warnings("Do not trust the win rate of this run.", warnings)
    kl = "KL, repetition" if kl_target and summary.get("kl") is not None else "Repetition"
    return render_all_clear(
        "No warnings.",
        f"{kl}, length and duplicates are within bounds, so the win rate can be trusted.",
    )


def explain_terms(table: Sequence[Sequence[str]]) -> list[str]:
    """Explain the words in the table's header and first column, a sentence each."""
    words = " ".join([*table[0], *(row[0] for row in table)])
    return [sentence for term, sentence in TERMS.items() if term in words]


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


def _render_samples(samples: Rows, labels: tuple[str, str]) -> str:
    if not samples:
        return ""
    names = list(zip(("before", "after"), labels, strict=True))
    cards = "".join(
        render_side_by_side(
            str(sample["prompt"]), ((side, label, sample[side]) for side, label in names)
        )
        for sample in samples
    )
    return f"<h2>Samples</h2><h3>Prompts at even distances, not hand-picked</h3>{cards}"


def _render_seconds(summary: Summary) -> str:
    seconds = summary.get("seconds", {}).items()
    spent = ", ".join(f"{escape(add_spaces(stage))} {value:.0f} s" for stage, value in seconds)
    return f"<footer>Time: {spent}.</footer>" if spent else ""
