"""A Label Studio export as rows of stage 2, with an account of its annotations."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from training.arguments.annotation import VoteArgs
from training.arguments.parsing import UserError
from training.data.annotation.config import LabelConfig, parse_config, read_page
from training.data.annotation.count import collect_votes
from training.data.annotation.export import Task, is_export_start, parse_tasks
from training.data.annotation.report import FEWEST_SHARED, Report, build_report, format_report
from training.data.annotation.votes import TIE, Question, Vote
from training.data.files import Row

logger = logging.getLogger(__name__)

MOST_ERROR = 0.4  # of an estimate: then a single vote is a label of 0.6


def convert_if_export(rows: Iterable[Row], path: str, args: VoteArgs) -> Iterator[Row]:
    """Yield the comparisons of a file's rows if it is an export, else the rows as they are."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    yield from convert_export(rows, path, args) if is_export_start(first, path) else rows


def convert_export(
    rows: Iterable[Row], path: str, args: VoteArgs, *, log: bool = True
) -> list[Row]:
    """Return the comparisons of an export's rows, and log its account."""
    converted, report = convert_tasks(parse_tasks(list(rows), path), path, args)
    for line in format_report(report) if log else ():
        logger.info("%s: %s", path, line)
    return converted


def convert_tasks(tasks: Sequence[Task], path: str, args: VoteArgs) -> tuple[list[Row], Report]:
    """Return rows {"prompt", "responses", "pairs"}, one per question, and the report.

    Raises `UserError` with the reasons if no comparison is left.
    """
    config = LabelConfig(control=args.label_control)
    if args.label_config:
        page = read_page(args.label_config)
        config = parse_config(page, args.label_config, control=args.label_control)
    questions, ledger = collect_votes(tasks, config, ties=args.ties)
    report = build_report(tasks, questions, ledger)
    error = _choose_error(args, report)
    if args.annotator_error == "auto":
        report["warnings"] += _warn_of_estimate(error, report)
    rows: list[Row] = []
    for question in questions:
        row = build_row(question, args, annotator_error=error)
        if row is not None:
            rows.append((row, question.source))
    report["pairs"] = sum(len(row["pairs"]) for row, _ in rows)
    report["undecided_questions"] = len(questions) - len(rows)
    report["annotator_error_used"] = error
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items())
        raise UserError(
            f"{path}: no comparison is left of {report['annotations']} annotations"
            + (f" ({reasons})" if reasons else "")
            + ("; name the columns with --label_config" if "the task has no" in reasons else "")
            + ("; ratings are compared by annotator and prompt" if "only rating" in reasons else "")
        )
    return rows, report


def _choose_error(args: VoteArgs, report: Report) -> float:
    """Return --annotator_error, estimated from agreement if it is auto."""
    if args.annotator_error != "auto":
        return float(args.annotator_error)
    estimate: float | None = report["agreement"]["annotator_error"]
    if estimate is None:
        raise UserError(
            "--annotator_error auto needs comparisons that several annotators judged; this export "
            "has none: give a number"
        )
    return min(max(estimate, 0.0), 0.49)


def _warn_of_estimate(error: float, report: Report) -> list[str]:
    shared = report["agreement"]["comparisons"]
    if shared >= FEWEST_SHARED and error < MOST_ERROR:
        return []
    return [
        f"--annotator_error auto: estimated as {error:.0%} from {shared} comparisons that several "
        "people judged, which leaves little of the votes: give a number, or have more judged twice"
    ]


def build_row(
    question: Question, args: VoteArgs, *, annotator_error: float
) -> dict[str, Any] | None:
    """Build a row of stage 2 from a question's votes; None if nothing is decided.

    --votes soft: the label is the share of votes, a tie counting half for each side. majority: 1
    for the side with more votes; equally many on both sides is a tie. all: each vote is a
    comparison. With `annotator_error` above 0 a label is the evidence of votes that are wrong that
    often. A pair's `votes` keep who chose what, for the reward model's report.
    """
    by_pair: dict[tuple[int, int], list[Vote]] = {}
    for vote in question.votes:
        by_pair.setdefault((vote.first, vote.second), []).append(vote)
    pairs = []
    for (first, second), cast in by_pair.items():
        for votes in [[vote] for vote in cast] if args.votes == "all" else [cast]:
            share = _merge_votes(votes, args, annotator_error)
            if share == TIE and args.ties == "drop" and args.votes != "soft":
                continue
            better, worse = (first, second) if share >= TIE else (second, first)
            label = round(max(share, 1.0 - share), 6)
            pair = {"chosen": better, "rejected": worse, "label": label}
            named = {
                vote.annotator: vote.share if better == first else 1.0 - vote.share
                for vote in votes
                if vote.annotator
            }
            pairs.append(pair | ({"votes": named} if named else {}))
    if not pairs:
        return None
    return {"prompt": question.prompt, "responses": question.responses, "pairs": pairs}


def _merge_votes(votes: Sequence[Vote], args: VoteArgs, error: float) -> float:
    """Return P(the first response is better), from the votes on it and the second.

    For voters who each err with the chance `error`, a vote multiplies the odds by
    (1 - error) / error and a tie leaves them, starting from even odds.
    """
    mean = sum(vote.share for vote in votes) / len(votes)
    if error <= 0:
        return mean if args.votes == "soft" or mean == TIE else float(mean > TIE)
    if mean == TIE or error >= TIE:
        return TIE
    lead = sum(2.0 * vote.share - 1.0 for vote in votes)
    odds = math.exp(-abs(lead) * math.log((1.0 - error) / error))  # against the side that leads
    return 1.0 / (1.0 + odds) if lead >= 0 else odds / (1.0 + odds)
