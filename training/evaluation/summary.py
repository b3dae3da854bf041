"""Summarize a comparison of two models: win rates, text metrics, warnings and a table."""

from collections.abc import Mapping, Sequence
from operator import add
from typing import Any

from training.evaluation import text_metrics
from training.evaluation.judges import score_all
from training.evaluation.statistics import bootstrap_interval, compute_wins
from training.judge import Judge

Summary = dict[str, Any]

# A win rate can be trusted only within all of these bounds.
MAX_KL_RATIO = 3.0  # to the target
# 70 % of distinct-2 of people's texts in the examples: pairs of characters repeat sooner.
MIN_DISTINCT2 = {"words": 0.6, "characters": 0.5}
MIN_LENGTH = {"words": 7.0, "characters": 11.0}  # a Chinese word has about 1.6 characters
MAX_DUPLICATES = 0.05

TEXT_METRICS = {"length": "{:.1f}", "distinct2": "{:.2f}", "duplicates": "{:.1%}"}


def compare_responses(
    before: Sequence[str],
    after: Sequence[str],
    groups: Sequence[str],
    judges: Mapping[str, Judge],
    *,
    given: Sequence[str] | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Summary:
    """Judge responses to the same prompts, one response of each side per prompt.

    `given` is the part of each prompt that judges read before the response, for a response that
    continues a sentence; text metrics count the responses alone. `others` are more sides, each
    compared with `before`. The first judge is the main one. Intervals resample `groups`:
    responses about one film are not independent.
    """
    sides = {"before": before, "after": after, **(others or {})}
    beginnings = given or [""] * len(before)
    for name, texts in {**sides, "groups": groups, "given": beginnings}.items():
        if len(texts) != len(before):
            raise ValueError(f"{name} has {len(texts)} entries for {len(before)} prompts")
    scores = {
        side: {n: score_all(j, n, [*map(add, beginnings, texts)]) for n, j in judges.items()}
        for side, texts in sides.items()
    }
    summary: Summary = {"prompts": len(before), "groups": len(set(groups))}

    def compute_win(name: str, side: str) -> dict[str, Any]:
        return compute_win_rate(scores["before"][name], scores[side][name], groups, seed=seed)

    for name in judges:
        means = {side: compute_mean(scores[side][name]) for side in ("before", "after")}
        summary[name] = {**means, **compute_win(name, "after")}
    words = min(text_metrics.count_words(texts) for texts in sides.values())
    metrics = {side: _measure_texts(texts, words) for side, texts in sides.items()}
    summary["length_unit"] = (
        "characters" if text_metrics.is_counted_in_characters(before) else "words"
    )
    for key in TEXT_METRICS:
        summary[key] = {side: metrics[side][key] for side in ("before", "after")}
    for side in others or {}:
        summary[side] = dict(metrics[side])
        for name in judges:
            mean = compute_mean(scores[side][name])
            summary[side][name] = {"mean": mean, **compute_win(name, side)}
        main = summary[side][next(iter(judges))]
        summary[side] |= {key: main[key] for key in ("win_rate", "win_rate_ci")}
    return summary


def compute_mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def compute_win_rate(
    before: Sequence[float], after: Sequence[float], groups: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """Compute how often `after` scores higher, with its 95 % interval; a tie counts 1/2."""
    wins = compute_wins(before, after)
    interval = bootstrap_interval(wins, groups, seed=seed)
    return {"win_rate": float(wins.mean()), "win_rate_ci": list(interval)}


def _measure_texts(texts: Sequence[str], words: int) -> dict[str, float]:
    return {
        "length": text_metrics.compute_mean_length(texts),
        "distinct2": text_metrics.distinct_n(texts, n=2, words=words),
        "duplicates": text_metrics.compute_duplicate_rate(texts),
    }


def list_warnings(summary: Summary, kl_target: float | None) -> list[str]:
    """List reasons to doubt the win rate, in plain words."""
    warnings = []
    kl = summary.get("kl")
    if kl is not None and kl_target is not None and not kl <= MAX_KL_RATIO * kl_target:
        warnings.append(
            f"The model has moved {kl:.1f} nats from where it started, more than "
            f"{MAX_KL_RATIO:g} times the target of {kl_target:g}."
        )
    unit = summary["length_unit"]
    length, distinct2, duplicates = (summary[key]["after"] for key in TEXT_METRICS)
    if distinct2 < MIN_DISTINCT2[unit]:
        warnings.append(
            f"The text repeats itself: distinct-2 is {distinct2:.2f}, "
            f"below {MIN_DISTINCT2[unit]:g}."
        )
    if length < MIN_LENGTH[unit]:
        warnings.append(
            f"Responses have become short: {length:.1f} {unit} on average, "
            f"below {MIN_LENGTH[unit]:g}."
        )
    if duplicates > MAX_DUPLICATES:
        warnings.append(
            f"Different prompts get the same response: {duplicates:.1%} are "
            f"duplicates, above {MAX_DUPLICATES:.0%}."
        )
    judge = next(iter(list_judges(summary)), None)
    if warnings and judge is not None and summary[judge]["win_rate"] > 0.5:
        warnings.append(
            f"The judge still prefers this text (win rate {summary[judge]['win_rate']:.2f}). With "
            "the above that is a sign of over-optimisation, not of better writing."
        )
    return warnings


def list_judges(summary: Summary) -> list[str]:
    """List the judges of a summary, the main one first."""
    entries = ((name, entry) for name, entry in summary.items() if isinstance(entry, dict))
    return [name for name, entry in entries if "after" in entry and "win_rate" in entry]


def list_other_sides(summary: Summary) -> list[str]:
    """List the sides besides before and after, such as best_of_4."""
    entries = ((name, entry) for name, entry in summary.items() if isinstance(entry, dict))
    return [name for name, entry in entries if "distinct2" in entry]


def build_table(summary: Summary, *, labels: tuple[str, str] = ("SFT", "PPO")) -> list[list[str]]:
    """Build the table's cells, header first, for the terminal and the report."""
    others = list_other_sides(summary)
    rows = [["", *labels, *map(add_spaces, others)]]
    for name in list_judges(summary):
        entry, columns = summary[name], [summary[side][name] for side in others]
        means = [entry["before"], entry["after"], *(column["mean"] for column in columns)]
        wins = [
            "{:.3f} [{:.3f}, {:.3f}]".format(cell["win_rate"], *cell["win_rate_ci"])
            for cell in (entry, *columns)
        ]
        rows.append([f"{add_spaces(name)}, mean", *(f"{mean:.2f}" for mean in means)])
        rows.append([f"{add_spaces(name)}, win rate over {labels[0]}", "", *wins])
    titles = (summary["length_unit"], "distinct-2", "duplicates")
    for title, (key, form) in zip(titles, TEXT_METRICS.items(), strict=True):
        values = [summary[key]["before"], summary[key]["after"], *(summary[s][key] for s in others)]
        rows.append([title, *map(form.format, values)])
    if perplexity := summary.get("perplexity"):
        values = [perplexity[side] for side in ("before", "after", *others)]
        rows.append(["reader's perplexity, median", *(f"{value:.0f}" for value in values)])
    if summary.get("kl") is not None:
        kls = [0.0, summary["kl"], *(summary[side].get("kl") for side in others)]
        rows.append([f"KL to {labels[0]}, nats", *("" if k is None else f"{k:.1f}" for k in kls)])
    return rows


def add_spaces(name: str) -> str:
    """Turn a key of the summary into words."""
    return name.replace("_", " ")


def format_reward_model_accuracy(summary: Summary) -> list[str]:
    """Format how often the reward model orders held-out pairs as people did, by kind of pair."""
    entry, lines = summary.get("reward_model", {}), []
    for suffix, title in (("", "all pairs"), ("_gap1", "pairs at least one point apart")):
        if f"accuracy{suffix}" not in entry:
            continue
        low, high = entry[f"accuracy{suffix}_ci"]
        line = f"{title}: {entry[f'accuracy{suffix}']:.3f} [{low:.3f}, {high:.3f}]"
        if f"human_ceiling{suffix}" in entry:
            line += f"; one human rater per side: {entry[f'human_ceiling{suffix}']:.3f}"
        lines.append(line)
    return lines


def format_table(summary: Summary, *, labels: tuple[str, str] = ("SFT", "PPO")) -> str:
    """Format the table for a terminal, with the reward model's accuracy below it."""
    rows = build_table(summary, labels=labels)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for index, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
        if index == 0:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    if "human" in summary.get("perplexity", {}):
        human = summary["perplexity"]["human"]
        lines += ["", f"the reader's median perplexity of what people wrote: {human:.0f}"]
    if accuracy := format_reward_model_accuracy(summary):
        lines += ["", "reward model on held-out comparisons", *(f"  {line}" for line in accuracy)]
    return "\n".join(lines)
