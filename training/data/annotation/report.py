"""Report what an export holds, what is used of it, and how far annotators can be trusted."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from training.data.annotation import agreement
from training.data.annotation.export import Task
from training.data.annotation.votes import TIE, Ledger, Question
from training.intervals import wilson_interval

SHOWN_IDS = 20  # of annotations dropped for one reason
TOO_FAST = 0.1  # of an annotator's median time
TOO_SLOW = 10.0
FAST_ALL_ALONG = 0.25  # of the median of everybody else's times: nobody reads four times as fast
FEWEST_TIMES = 8  # below which a median says nothing
FEWEST_SHARED = 10  # comparisons that several people judge before their agreement is judged

Report = dict[str, Any]


def build_report(tasks: Sequence[Task], questions: Sequence[Question], ledger: Ledger) -> Report:
    """Count, and compute agreement, positions and times by annotator.

    used + dropped = annotations.
    """
    annotations = [(task, item) for task in tasks for item in task.annotations]
    dropped = {reason: len(ids) for reason, ids in sorted(ledger.dropped.items())}
    assert len(ledger.used) + sum(dropped.values()) == len(annotations), "one is unaccounted for"
    report: Report = {
        "tasks": len(tasks),
        "annotations": len(annotations),
        "used": len(ledger.used),
        "dropped": dropped,
        "dropped_ids": {
            reason: [f"task {task}, annotation {item}" for task, item in ids[:SHOWN_IDS]]
            for reason, ids in sorted(ledger.dropped.items())
        },
        "tasks_without_annotation": sum(not task.annotations for task in tasks),
        "drafts": sum(task.drafts for task in tasks),
        "predictions": sum(task.predictions for task in tasks),
        "from_predictions": sum(item.is_from_prediction for _, item in annotations),
        "ground_truth": sum(item.is_ground_truth for _, item in annotations),
        "votes": sum(len(question.votes) for question in questions),
        "annotators": _describe_annotators(tasks, questions),
        "agreement": _measure_agreement(questions),
    }
    report["warnings"] = list(_list_warnings(report))
    return report


def _measure_agreement(questions: Sequence[Question]) -> dict[str, Any]:
    units = _group_judgements(questions)
    decided = [unit for unit in units if TIE not in unit.values()]
    percent, of_decided = map(agreement.percent_agreement, (units, decided))
    names = sorted({name for unit in units for name in unit})
    kappas = {}
    for first, second in combinations(names, 2):
        both = [(u[first], u[second]) for u in units if first in u and second in u]
        kappa = agreement.cohen_kappa([a for a, _ in both], [b for _, b in both])
        if kappa is not None:
            kappas[f"{first}, {second}"] = {"comparisons": len(both), "kappa": _round(kappa)}
    return {
        "comparisons": len(units),
        "percent": _round(percent),
        "cohen_kappa": kappas,
        "krippendorff_alpha": _round(agreement.krippendorff_alpha(units)),
        "annotator_error": _round(agreement.estimate_annotator_error(of_decided)),
    }


def _group_judgements(questions: Sequence[Question]) -> list[dict[str, float]]:
    """Return {annotator: share} of each comparison that two or more annotators judged."""
    units: dict[tuple[int, int, int], dict[str, float]] = defaultdict(dict)
    for number, question in enumerate(questions):
        for vote in question.votes:
            if vote.annotator:
                units[number, vote.first, vote.second][vote.annotator] = vote.share
    return [unit for unit in units.values() if len(unit) > 1]


def _describe_annotators(tasks: Sequence[Task], questions: Sequence[Question]) -> dict[str, Any]:
    """Describe each annotator: number of annotations, agreement with others, position, times."""
    counts = Counter(item.annotator for task in tasks for item in task.annotations)
    others = agreement.compute_agreement_with_others(_group_judgements(questions))
    times: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for task in tasks:
        for item in task.annotations:
            if item.lead_time is not None and not item.is_skipped:
                times[item.annotator].append((item.lead_time, task.task_id))
    decided: dict[str, list[bool]] = defaultdict(list)
    for question in questions:
        for vote in question.votes:
            if question.kind == "pairwise" and vote.share != TIE:
                decided[vote.annotator].append(vote.share > TIE)
    return {
        annotator: {
            "annotations": count,
            "agreement_with_others": _round(others.get(annotator)),
            **_measure_position(decided[annotator]),
            **_measure_times(times[annotator]),
            "others_median_seconds": _compute_others_median(times, annotator),
        }
        for annotator, count in sorted(counts.items())
    }


def _compute_others_median(
    times: Mapping[str, Sequence[tuple[float, str]]], name: str
) -> float | None:
    """Return the median time of everybody else's annotations; None for too few."""
    others = [time for other, theirs in times.items() if other != name for time, _ in theirs]
    enough = len(others) >= FEWEST_TIMES and len(times.get(name, ())) >= FEWEST_TIMES
    return _round(statistics.median(others)) if enough else None


def _measure_position(chose_left: Sequence[bool]) -> dict[str, Any]:
    if not chose_left:
        return {}
    low, high = wilson_interval(sum(chose_left), len(chose_left))
    share = sum(chose_left) / len(chose_left)
    return {"left": _round(share), "left_interval": [_round(low), _round(high)]}


def _measure_times(times: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Return the median of (seconds, task id), and the tasks far from it."""
    if not times:
        return {}
    median = statistics.median(time for time, _ in times)
    entry: dict[str, Any] = {"median_seconds": _round(median)}
    if len(times) >= FEWEST_TIMES:
        entry["too_fast"] = [task for time, task in times if time < TOO_FAST * median]
        entry["too_slow"] = [task for time, task in times if time > TOO_SLOW * median]
    return entry


def _list_warnings(report: Report) -> Iterator[str]:
    for annotator, entry in report["annotators"].items():
        name = annotator or "(nobody named)"
        low, high = entry.get("left_interval", (0.0, 1.0))
        if low > TIE or high < TIE:
            side = "left" if low > TIE else "right"
            yield f"annotator {name} prefers the {side} side: {entry['left']:.0%} left"
        median, others = entry.get("median_seconds"), entry["others_median_seconds"]
        if others is not None and median < FAST_ALL_ALONG * others:
            yield (
                f"annotator {name} was very fast all along: {median:g} s a task, where the others "
                f"took {others:g} s"
            )
        if entry.get("too_fast"):
            yield f"annotator {name} was very fast in {len(entry['too_fast'])} tasks"
    shared = report["agreement"]
    alpha = shared["krippendorff_alpha"]
    if shared["comparisons"] >= FEWEST_SHARED and alpha is not None and alpha < 0.2:
        yield f"annotators hardly agree beyond chance: Krippendorff's alpha {alpha:.2f}"
    if report["from_predictions"]:
        yield (
            f"{report['from_predictions']} annotations were submitted from a prediction, which "
            "leads people to agree with it"
        )


def format_report(report: Report) -> list[str]:
    lines = [
        f"{report['tasks']} tasks, {report['annotations']} annotations by "
        f"{len(report['annotators'])} annotators: {report['used']} used, "
        f"{sum(report['dropped'].values())} dropped; {report['pairs']} comparisons"
    ]
    for reason, count in report["dropped"].items():
        ids = "; ".join(report["dropped_ids"][reason][:5])
        lines.append(f"  dropped {count}: {reason} ({ids}{'; ...' if count > 5 else ''})")
    unvoted = ("tasks_without_annotation", "drafts", "predictions")
    rest = [f"{report[key]} {key.replace('_', ' ')}" for key in unvoted if report[key]]
    if rest:
        lines.append(f"  not votes: {', '.join(rest)}")
    if report.get("undecided_questions"):
        lines.append(
            f"  {report['undecided_questions']} questions whose votes are tied are left out "
            "(--ties half keeps them)"
        )
    shared = report["agreement"]
    if shared["comparisons"]:
        alpha = shared["krippendorff_alpha"]
        lines.append(
            f"agreement over {shared['comparisons']} comparisons: {shared['percent']:.0%}"
            + ("" if alpha is None else f", Krippendorff's alpha {alpha:.2f}")
        )
        if shared["comparisons"] < FEWEST_SHARED:
            lines.append(f"  too few to judge how far people agree: {FEWEST_SHARED} would do")
    if report.get("annotator_error_used"):
        lines.append(
            f"labels are softened as if {report['annotator_error_used']:.0%} of votes were wrong"
        )
    return lines + [f"warning: {warning}" for warning in report["warnings"]]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
