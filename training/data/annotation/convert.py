"""A Label Studio export as rows of stage 2, with its account."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from training.arguments.annotation import VoteArgs
from training.arguments.parsing import UserError
from training.data.annotation.config import LabelConfig, read_config
from training.data.annotation.count import collect_votes
from training.data.annotation.export import UNLABELLED, Task, is_export, is_unlabelled, tasks_of
from training.data.annotation.merge import comparison_row
from training.data.annotation.report import FEWEST_SHARED, Report, account, in_words
from training.data.files import Row

logger = logging.getLogger(__name__)

MOST_ERROR = 0.4  # of an estimate: then a single vote is a label of 0.6


def convert_if_export(
    rows: Iterable[Row], path: str, args: VoteArgs, *, told: bool = False
) -> Iterator[Row]:
    """The comparisons that an export stands for; other rows as they are.

    Its account is logged unless it was `told` before.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    if is_unlabelled(first[0]):
        raise UserError(UNLABELLED.format(path))
    if not is_export(first[0]):
        yield from chain([first], rows)
        return
    converted, report = convert(tasks_of([first, *rows], path), path, args)
    for line in () if told else in_words(report, report["pairs"]):
        logger.info("%s: %s", path, line)
    yield from converted


def convert(tasks: Sequence[Task], path: str, args: VoteArgs) -> tuple[list[Row], Report]:
    """Rows {"prompt", "responses", "pairs"}, one a question, and what became of each annotation.

    Raises `UserError` where no comparison is left, with the reasons.
    """
    config = LabelConfig(control=args.label_control)
    if args.label_config:
        config = read_config(args.label_config, control=args.label_control)
    questions, ledger = collect_votes(tasks, config, ties=args.ties)
    report = account(tasks, questions, ledger)
    error = annotator_error_of(args, report)
    if args.annotator_error == "auto":
        report["warnings"] += _doubts(error, report)
    rows: list[Row] = []
    for question in questions:
        row = comparison_row(question, votes=args.votes, ties=args.ties, annotator_error=error)
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


def annotator_error_of(args: VoteArgs, report: Report) -> float:
    """--annotator_error, estimated from agreement where it is auto."""
    if args.annotator_error != "auto":
        return float(args.annotator_error)
    estimate: float | None = report["agreement"]["annotator_error"]
    if estimate is None:
        raise UserError(
            "--annotator_error auto needs comparisons that several annotators judged; this export "
            "has none: give a number"
        )
    return min(max(estimate, 0.0), 0.49)


def _doubts(error: float, report: Report) -> list[str]:
    """Of an estimated error."""
    shared = report["agreement"]["comparisons"]
    if shared >= FEWEST_SHARED and error < MOST_ERROR:
        return []
    return [
        f"--annotator_error auto: estimated as {error:.0%} from {shared} comparisons that several "
        "people judged, which leaves little of the votes: give a number, or have more judged twice"
    ]
