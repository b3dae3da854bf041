"""Measures of a reward model on held-out comparisons. Pure functions of its scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.data.encode import EncodedGroup
from training.evaluation.reward_model import baselines, calibration, slices
from training.evaluation.reward_model.baselines import LengthRule
from training.evaluation.reward_model.held_out_pairs import HeldOutPairs, held_out_pairs
from training.evaluation.statistics import Floats, compute_mean_interval

WORST = 20  # pairs to read

Report = dict[str, Any]


def report_accuracy(held: HeldOutPairs, difference: Floats, *, seed: int) -> Report:
    """Accuracy over all decided comparisons and over those with a gap of at least 1."""
    right, clusters = baselines.mark_correct(difference, held), held.cluster[held.is_decided]
    report = {"all": slices.measure_accuracy(right, clusters, seed=seed)}
    wide = held.gap[held.is_decided] >= 1.0
    if wide.any():
        report["gap1"] = slices.measure_accuracy(right[wide], clusters[wide], seed=seed)
    return report


def summarize_accuracy(
    groups: Sequence[EncodedGroup],
    scores: Sequence[float],  # one a response, in the order of the groups
    *,
    seed: int,
) -> Report:
    """The `reward_model` entry of an evaluation's summary: accuracy, interval, number of pairs.

    A soft label is the share of raters who agree with the order, so where labels are soft their
    mean is what one person a side would reach: `human_ceiling`.
    """
    flat = iter(scores)
    by_group = [[next(flat) for _ in group.response_ids] for group in groups]
    held = held_out_pairs(groups)
    report = report_accuracy(held, held.difference(held.flat(by_group)), seed=seed)
    label, gap = held.label[held.is_decided], held.gap[held.is_decided]
    entry: Report = {}
    for name, suffix, shares in (("all", "", label), ("gap1", "_gap1", label[gap >= 1.0])):
        part = report.get(name)
        if part is None or not part["pairs"]:
            continue
        entry[f"accuracy{suffix}"] = part["accuracy"]
        entry[f"accuracy{suffix}_ci"] = part["interval"]
        entry[f"pairs{suffix}"] = part["pairs"]
        if (shares < 1.0).any():
            entry[f"human_ceiling{suffix}"] = float(shares.mean())
    return entry


def compute_metrics(
    held: HeldOutPairs, scores: Floats, before: Floats | None, *, seed: int
) -> dict[str, float]:
    """Compute the metrics of an evaluation beside loss and accuracy.

    `before` are the scores of the previous evaluation, for the share of comparisons whose order
    has changed since.
    """
    metrics = {"score/eval_mean": float(scores.mean()), "score/eval_std": float(scores.std())}
    difference = held.difference(scores)
    if before is not None:
        turned = np.sign(held.difference(before)) != np.sign(difference)
        metrics["score/eval_turned"] = float(turned.mean())
    if held.is_decided.any() and np.isfinite(scores).all():
        right, clusters = baselines.mark_correct(difference, held), held.cluster[held.is_decided]
        bins = calibration.bin_by_confidence(difference, held.label)
        excess = calibration.overconfidence(difference, held.label)
        low, high = slices.measure_accuracy(right, clusters, seed=seed)["interval"]
        metrics |= {
            "accuracy/eval_low": low,
            "accuracy/eval_high": high,
            "calibration/ece": calibration.expected_calibration_error(bins),
            "calibration/brier": calibration.brier_score(difference, held.label),
            "calibration/overconfidence": float(excess.mean()),
        }
        correlation = baselines.correlate_with_length(difference, held.length_difference)
        if correlation is not None:
            metrics["score/eval_length_correlation"] = correlation
    return metrics


def build_report(held: HeldOutPairs, scores: Floats, rule: LengthRule, *, seed: int) -> Report:
    """Everything but what happened during the run. Scores are finite, and something is decided."""
    difference, decided = held.difference(scores), held.is_decided
    right, clusters = baselines.mark_correct(difference, held), held.cluster[decided]
    report = report_accuracy(held, difference, seed=seed)

    def by(values: Floats, edges: Sequence[float]) -> list[dict[str, Any]]:
        return slices.measure_accuracy_by(right, values[decided], edges, clusters, seed=seed)

    lengths, sure = held.length_difference, np.abs(difference)
    return report | {
        "ties": int((~decided).sum()),
        "prompts": len(np.unique(held.cluster)),
        "by_score_difference": by(sure, slices.find_quantile_edges(sure[decided])),
        "by_gap": by(held.gap, slices.find_quantile_edges(held.gap[decided])),
        "by_raters": by(held.label, slices.RATERS) if (held.label[decided] < 1.0).any() else [],
        "by_length": by(lengths, slices.find_length_edges(lengths[decided])),
        "by_annotator": slices.measure_by_annotator(held, difference, seed=seed),
        "calibration": _report_calibration(held, difference, seed),
        "baselines": {
            "chance": _report_chance(held, scores, float(right.mean()), seed),
            "length": _report_length(held, right, rule, seed),
        },
        "length_correlation": baselines.correlate_with_length(difference, lengths),
        "worst": find_worst_pairs(held, difference),
    }


def _report_calibration(held: HeldOutPairs, difference: Floats, seed: int) -> Report:
    bins = calibration.bin_by_confidence(difference, held.label)
    excess = calibration.overconfidence(difference, held.label)
    return {
        "ece": calibration.expected_calibration_error(bins),
        "brier": calibration.brier_score(difference, held.label),
        "brier_undecided": calibration.brier_score(np.zeros_like(difference), held.label),
        "confidence": float(calibration.compute_probability(np.abs(difference)).mean()),
        "overconfidence": float(excess.mean()),
        "overconfidence_interval": _compute_interval(excess, held.cluster, seed),
        "bins": bins,
    }


def _report_chance(held: HeldOutPairs, scores: Floats, accuracy: float, seed: int) -> Report:
    drawn = baselines.sample_chance_accuracies(held, scores, seed=seed)
    low, high = np.quantile(drawn, [0.025, 0.975])
    # As many as did at least as well, the model itself among them (Phipson and Smyth, 2010).
    p_value = (1 + int((drawn >= accuracy).sum())) / (1 + len(drawn))
    interval = [float(low), float(high)]
    return {"accuracy": float(drawn.mean()), "interval": interval, "p_value": p_value}


def _report_length(held: HeldOutPairs, right: Floats, rule: LengthRule, seed: int) -> Report:
    clusters, outcomes = held.cluster[held.is_decided], rule.outcomes(held)
    lead = right - outcomes
    return {
        "prefers": rule.prefers,
        "train_accuracy": rule.train_accuracy,
        **slices.measure_accuracy(outcomes, clusters, seed=seed),
        "model_leads_by": float(lead.mean()),
        "model_leads_by_interval": _compute_interval(lead, clusters, seed),
    }


def _compute_interval(values: Floats, clusters: Any, seed: int) -> list[float] | None:
    """None where one prompt alone does not say how much prompts differ."""
    if len(np.unique(clusters)) < 2:
        return None
    return list(compute_mean_interval(values, clusters, seed=seed))


def find_worst_pairs(held: HeldOutPairs, difference: Floats, count: int = WORST) -> list[Report]:
    """Comparisons that the model has most confidently wrong, each response shown once.

    Ordered by the divergence of the model's chance p from the label y, y log(y / p) +
    (1 - y) log((1 - y) / (1 - p)): how sure the model is, and how sure people are against it.
    """
    wrong = np.flatnonzero(held.is_decided & (difference < 0))
    label, d = held.label[wrong], difference[wrong]
    rest = np.where(label < 1.0, 1.0 - label, 1.0)  # 0 log 0 is 0
    entropy = -label * np.log(label) - (1.0 - label) * np.log(rest)
    divergence = label * np.logaddexp(0.0, -d) + (1.0 - label) * np.logaddexp(0.0, d) - entropy
    shown: set[int] = set()
    found: list[Report] = []
    for index in wrong[np.argsort(-divergence, kind="stable")].tolist():
        sides = {int(held.better[index]), int(held.worse[index])}
        if shown & sides:
            continue
        shown |= sides
        found.append(
            {
                "source": held.sources[index],
                "better": list(held.place[int(held.better[index])]),
                "worse": list(held.place[int(held.worse[index])]),
                "score_difference": float(difference[index]),
                "label": float(held.label[index]),
                "length_difference": int(held.length_difference[index]),
                "votes": dict(held.votes[index]),
            }
        )
        if len(found) == count:
            break
    return found
