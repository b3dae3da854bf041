"""Compare responses before and after training, paired by prompt, and say it in a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.evaluation.judges import score_all
from training.evaluation.statistics import bootstrap_interval, compute_wins
from training.evaluation.text_metrics import (
    distinct_n,
    duplicate_share,
    is_counted_in_characters,
    word_count,
    words_mean,
)
from training.judge import Judge

Summary = dict[str, Any]

# A win rate is believed only while all of these hold.
MAX_KL_RATIO = 3.0  # to the target
# Seven tenths of what people wrote in the examples: pairs of characters repeat sooner.
MIN_DISTINCT2 = {"words": 0.6, "characters": 0.5}
MIN_LENGTH = {"words": 7.0, "characters": 11.0}  # a Chinese word has about 1.6 characters
MAX_DUPLICATES = 0.05

TEXT_METRICS = (("length", ""), ("distinct2", "distinct-2"), ("duplicates", "duplicates"))


def compare(
    before: Sequence[str],
    after: Sequence[str],
    groups: Sequence[str],
    judges: Mapping[str, Judge],
    *,
    given: Sequence[str] | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> Summary:
    """Judge responses to the same prompts, one of each side per prompt.

    `given` is the part of each prompt that a judge must read before the response, for a response
    that goes on with a sentence; words and repetitions are counted in the responses alone.
    `others` are further sides, each compared with `before`. The first judge is the main one.
    `groups` are what the intervals resample: responses about one film stand or fall together.
    """
    sides = {"before": before, "after": after, **(others or {})}
    for name, texts in {**sides, "groups": groups, "given": given or groups}.items():
        if len(texts) != len(before):
            raise ValueError(f"{name} has {len(texts)} entries for {len(before)} prompts")
    judged = {
        side: {name: score_all(judge, name, _read(given, texts)) for name, judge in judges.items()}
        for side, texts in sides.items()
    }
    summary: Summary = {"prompts": len(before), "groups": len(set(groups))}

    def wins(name: str, side: str) -> dict[str, Any]:
        won = compute_wins(judged["before"][name], judged[side][name])
        interval = bootstrap_interval(won, groups, samples=samples, seed=seed)
        return {"win_rate": float(won.mean()), "win_rate_ci": list(interval)}

    for name in judges:
        means = {side: _mean(judged[side][name]) for side in ("before", "after")}
        summary[name] = {**means, **wins(name, "after")}
    words = min(word_count(texts) for texts in sides.values())
    metrics = {side: _text_metrics(texts, words) for side, texts in sides.items()}
    summary["length_unit"] = "characters" if is_counted_in_characters(before) else "words"
    for key, _ in TEXT_METRICS:
        summary[key] = {side: metrics[side][key] for side in ("before", "after")}
    for side in others or {}:
        summary[side] = dict(metrics[side])
        for name in judges:
            summary[side][name] = {"mean": _mean(judged[side][name]), **wins(name, side)}
        main = summary[side][next(iter(judges))]
        summary[side] |= {key: main[key] for key in ("win_rate", "win_rate_ci")}
    return summary


def _read(given: Sequence[str] | None, texts: Sequence[str]) -> list[str]:
    """What a judge reads."""
    return list(texts) if given is None else [a + b for a, b in zip(given, texts, strict=True)]


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _text_metrics(texts: Sequence[str], words: int) -> dict[str, float]:
    return {
        "length": words_mean(texts),
        "distinct2": distinct_n(texts, n=2, words=words),
        "duplicates": duplicate_share(texts),
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
    unit = length_unit(summary)
    if summary["distinct2"]["after"] < MIN_DISTINCT2[unit]:
        warnings.append(
            f"The text repeats itself: distinct-2 is {summary['distinct2']['after']:.2f}, "
            f"below {MIN_DISTINCT2[unit]:g}."
        )
    if summary["length"]["after"] < MIN_LENGTH[unit]:
        warnings.append(
            f"Responses have become short: {summary['length']['after']:.1f} {unit} on average, "
            f"below {MIN_LENGTH[unit]:g}."
        )
    if summary["duplicates"]["after"] > MAX_DUPLICATES:
        warnings.append(
            f"Different prompts get the same response: {summary['duplicates']['after']:.1%} are "
            f"duplicates, above {MAX_DUPLICATES:.0%}."
        )
    judge = next(iter(judge_names(summary)), None)
    if warnings and judge is not None and summary[judge]["win_rate"] > 0.5:
        warnings.append(
            f"The judge still prefers this text (win rate {summary[judge]['win_rate']:.2f}). With "
            "the above that is a sign of over-optimisation, not of better writing."
        )
    return warnings


def length_unit(summary: Summary) -> str:
    """What `length` counts: words, or the characters of a language without spaces."""
    unit: str = summary.get("length_unit", "words")
    return unit


def judge_names(summary: Summary) -> list[str]:
    """The judges of a summary, the main one first."""
    return [
        name for name, entry in summary.items() if isinstance(entry, dict) and "after" in entry
        and "win_rate" in entry
    ]  # fmt: skip


def other_sides(summary: Summary) -> list[str]:
    """The sides beyond before and after, such as best-of-n."""
    return [
        name for name, entry in summary.items() if isinstance(entry, dict) and "distinct2" in entry
    ]


def table_rows(summary: Summary, *, labels: tuple[str, str] = ("SFT", "PPO")) -> list[list[str]]:
    """The table's cells, header first; terminal and report print the same ones."""
    others = other_sides(summary)
    rows = [["", *labels, *(name.replace("_", " ") for name in others)]]
    for name in judge_names(summary):
        entry, columns = summary[name], [summary[side][name] for side in others]
        title = name.replace("_", " ")
        means = [entry["before"], entry["after"], *(column["mean"] for column in columns)]
        rows.append([f"{title}, mean", *(f"{mean:.2f}" for mean in means)])
        rows.append(
            [f"{title}, win rate over {labels[0]}", "", *(_win(cell) for cell in (entry, *columns))]
        )
    for key, title in TEXT_METRICS:
        values = [summary[key]["before"], summary[key]["after"], *(summary[s][key] for s in others)]
        form = {"length": "{:.1f}", "distinct2": "{:.2f}", "duplicates": "{:.1%}"}[key]
        title = title or length_unit(summary)
        rows.append([title, *(form.format(value) for value in values)])
    if read := summary.get("perplexity"):
        cells = [read["before"], read["after"], *(read[side] for side in others)]
        rows.append(["reader's perplexity, median", *(f"{cell:.0f}" for cell in cells)])
    if summary.get("kl") is not None:
        kls = ["0.0", f"{summary['kl']:.1f}", *(_optional_kl(summary[side]) for side in others)]
        rows.append([f"KL to {labels[0]}, nats", *kls])
    return rows


def _win(cell: Mapping[str, Any]) -> str:
    low, high = cell["win_rate_ci"]
    return f"{cell['win_rate']:.3f} [{low:.3f}, {high:.3f}]"


def _optional_kl(side: Mapping[str, Any]) -> str:
    return f"{side['kl']:.1f}" if "kl" in side else ""


def reward_model_lines(summary: Summary) -> list[str]:
    """How often the reward model orders held-out pairs as people did, one line per kind of pair."""
    entry, lines = summary.get("reward_model", {}), []
    for suffix, title in (("", "all pairs"), ("_gap1", "pairs at least one point apart")):
        if f"accuracy{suffix}" not in entry:
            continue
        line = f"{title}: {entry[f'accuracy{suffix}']:.3f}"
        if f"accuracy{suffix}_ci" in entry:
            low, high = entry[f"accuracy{suffix}_ci"]
            line += f" [{low:.3f}, {high:.3f}]"
        if f"human_ceiling{suffix}" in entry:
            line += f"; one human rater a side: {entry[f'human_ceiling{suffix}']:.3f}"
        lines.append(line)
    return lines


def format_table(summary: Summary, *, labels: tuple[str, str] = ("SFT", "PPO")) -> str:
    """The table for a terminal, with the reward model's accuracy below it."""
    rows = table_rows(summary, labels=labels)
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
    if accuracy := reward_model_lines(summary):
        lines += ["", "reward model on held-out comparisons", *(f"  {line}" for line in accuracy)]
    return "\n".join(lines)
