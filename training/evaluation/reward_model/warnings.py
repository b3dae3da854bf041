"""When a reward model should not be trusted, in words. All thresholds are here, with reasons."""

from collections.abc import Iterator, Mapping
from typing import Any

# Below, the 95 % interval of an accuracy is wider than 15 points: too wide to compare two models.
FEWEST_PAIRS = 100
# Intervals that resample fewer clusters than this are too narrow (Cameron, Gelbach and Miller,
# 2008, find it between 5 and 30).
FEWEST_PROMPTS = 20
# Confidence above accuracy by this much is a systematic fault and not a rounding of the model.
OVERCONFIDENT = 0.05
# A correlation with length of 0.7: half of what scores differ by is length.
LENGTH_SHARE = 0.5
# Fewer votes of one annotator, or comparisons of one kind, have an interval of over 30 points.
FEWEST_OF_A_KIND = 30

CHANCE = 0.5

Warnings = list[dict[str, str]]


def list_warnings(report: Mapping[str, Any]) -> Warnings:
    """[{"about": ..., "text": ...}] of an evaluation.json; empty where nothing is amiss."""
    return [{"about": about, "text": text} for about, text in _iterate_warnings(report)]


def _iterate_warnings(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not report["all"]["pairs"]:
        yield (
            "nothing held out",
            "no decided comparison is held out, so nothing is known about this model's accuracy: "
            "raise --eval_fraction, or give --eval_data_path",
        )
        return
    if "calibration" not in report:
        yield (
            "not a number",
            "scores of held-out responses are not numbers: training has diverged; lower "
            "--learning_rate",
        )
        return
    yield from _check_size(report)
    chance = list(_check_chance(report))
    yield from chance
    yield from _check_length(report, is_above_chance=not chance)
    yield from _check_confidence(report["calibration"])
    yield from _check_annotators(report["by_annotator"])


def _check_size(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    pairs, (low, high) = report["all"]["pairs"], report["all"]["interval"]
    if pairs < FEWEST_PAIRS:
        yield (
            "few comparisons",
            f"only {pairs} held-out comparisons are decided: the accuracy may be anything from "
            f"{low:.0%} to {high:.0%}, an interval of {100 * (high - low):.0f} points; hold out "
            f"{FEWEST_PAIRS} or more (--eval_fraction, --eval_data_path)",
        )
    if report["prompts"] < FEWEST_PROMPTS:
        yield (
            "few prompts",
            f"the held-out comparisons are of {report['prompts']} prompts only, so all intervals "
            f"are too narrow; {FEWEST_PROMPTS} or more would do",
        )


def _check_chance(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    accuracy, (low, high) = report["all"]["accuracy"], report["all"]["interval"]
    luck_low, luck_high = report["baselines"]["chance"]["interval"]
    if high < CHANCE and accuracy < luck_low:
        yield (
            "worse than chance",
            f"worse than chance: {accuracy:.1%} [{low:.1%}, {high:.1%}]; do 'chosen' and "
            "'rejected', or the labels, swapped?",
        )
    elif low <= CHANCE or accuracy <= luck_high:
        yield (
            "chance",
            f"no better than chance: {accuracy:.1%} [{low:.1%}, {high:.1%}], where luck alone "
            f"gives {luck_low:.1%} to {luck_high:.1%}; PPO would learn noise",
        )


def _check_length(report: Mapping[str, Any], is_above_chance: bool) -> Iterator[tuple[str, str]]:
    rule, correlation = report["baselines"]["length"], report["length_correlation"]
    lead = rule["model_leads_by_interval"]
    if is_above_chance and rule["accuracy"] > CHANCE and lead is not None and lead[0] <= 0:
        yield (
            "length",
            f"not clearly better than always preferring the {rule['prefers']} response "
            f"({report['all']['accuracy']:.1%} against {rule['accuracy']:.1%}): see the accuracy "
            "by length",
        )
    for part in report["by_length"] if is_above_chance else ():
        low, high = part["interval"]
        if part["pairs"] >= FEWEST_OF_A_KIND and high < CHANCE:
            yield (
                "length bias",
                "in tokens: where people prefer the response that is "
                f"{format_length_range(part)}, it is worse than guessing: {part['accuracy']:.1%} "
                f"[{low:.1%}, {high:.1%}] of {part['pairs']} comparisons",
            )
    if correlation is not None and correlation**2 >= LENGTH_SHARE:
        what = "longer" if correlation > 0 else "shorter"
        yield (
            "length correlation",
            f"length explains {correlation**2:.0%} of what scores differ by ({what} scores "
            f"higher): PPO will learn to write {what}",
        )


def format_length_range(part: Mapping[str, Any]) -> str:
    """A bin of `slices.length_edges`, in words."""
    low, high = part["low"], part["high"]
    if low is None:
        return f"shorter by {-high + 0.5:.0f} or more"
    if high is None:
        return f"longer by {low + 0.5:.0f} or more"
    if low < 0 < high:
        return "equally long"
    near, far = sorted((abs(low), abs(high)))
    return f"{'longer' if low > 0 else 'shorter'} by {near + 0.5:.0f} to {far - 0.5:.0f}"


def _check_confidence(calibration: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    excess, interval = calibration["overconfidence"], calibration["overconfidence_interval"]
    if excess >= OVERCONFIDENT and interval is not None and interval[0] > 0:
        sure = calibration["confidence"]
        yield (
            "over-confident",
            f"over-confident: {sure:.0%} sure on average, and {sure - excess:.0%} of people agree; "
            "fewer epochs, more comparisons or --label_smoothing help",
        )


def _check_annotators(annotators: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, entry in annotators.items():
        others = entry["others"]
        if not others or min(entry["pairs"], others["pairs"]) < FEWEST_OF_A_KIND:
            continue
        if entry["interval"][1] < others["interval"][0]:
            people = entry["agreement_with_others"]
            seen = "" if people is None else f"; other people agree with {people:.0%} of theirs"
            yield (
                f"annotator {name}",
                f"annotator {name} disagrees with the rest: the model agrees with "
                f"{entry['accuracy']:.0%} of {entry['pairs']} held-out votes, and with "
                f"{others['accuracy']:.0%} of everybody else's{seen}",
            )
