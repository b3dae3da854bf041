"""Annotations of an export to questions with votes; each annotation is used or dropped by reason.

Pairwise choices and rankings vote on their own task. Ratings of single responses are compared
across the tasks of one prompt, each annotator's ratings only with each other.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from training.arguments.parsing import UserError
from training.data.annotation import votes
from training.data.annotation.config import LabelConfig
from training.data.annotation.export import Annotation, Region, Task
from training.data.annotation.votes import TIE, Ledger, Question, Ties, Vote

KINDS = ("pairwise", "ranker", "rating")
Submissions = Sequence[tuple[Annotation, Region | None]]


@dataclass
class RatedPrompt:
    """Ratings of responses to one prompt, from all tasks that have it."""

    prompt: str
    source: str
    responses: list[str] = field(default_factory=list)
    ratings: dict[str, list[tuple[int, float, Task, Annotation]]] = field(
        default_factory=lambda: defaultdict(list)
    )


def collect_votes(
    tasks: Sequence[Task], config: LabelConfig, *, ties: Ties
) -> tuple[list[Question], Ledger]:
    """Return questions with at least one vote, in the tasks' order, and the ledger."""
    config = _choose_control(tasks, config)
    ledger = Ledger()
    questions: list[Question] = []
    rated: dict[str, RatedPrompt] = {}
    for task in tasks:
        kept = _select_latest(task, config, ties, ledger)
        if config.kind == "rating":
            _add_ratings(rated, task, kept, config, ledger)
        elif question := _ask_task(task, kept, config, ties, ledger):
            questions.append(question)
    questions += [q for prompt in rated.values() if (q := _compare(prompt, ties, ledger)).votes]
    return questions, ledger


def _choose_control(tasks: Sequence[Task], config: LabelConfig) -> LabelConfig:
    """Return the config with the control and kind that count, read from regions if not given."""
    known = {
        (region.control, region.kind)
        for task in tasks
        for annotation in task.annotations
        for region in annotation.regions
        if region.kind in KINDS
    }
    named = {pair for pair in known if not config.control or pair[0] == config.control}
    if len(named) > 1:
        names = sorted(control for control, _ in named)
        raise UserError(
            f"the export has several controls that could count ({', '.join(names)}); name one with "
            "--label_control"
        )
    if not named:
        if known:
            raise UserError(
                f"the control {config.control} (of --label_config or --label_control) is not in "
                f"the export, which has {', '.join(sorted(control for control, _ in known))}"
            )
        return replace(config, kind=config.kind or "pairwise")
    control, kind = next(iter(named))
    return replace(config, control=control, kind=kind)


def _select_latest(task: Task, config: LabelConfig, ties: Ties, ledger: Ledger) -> Submissions:
    """Select the last readable submission of each annotator, with its region.

    A later submission replaces an earlier one, readable or not; a skip replaces nothing. Unnamed
    annotators may be anybody, so they replace nobody.
    """
    last: dict[str, Annotation] = {}
    for annotation in task.annotations:
        before = last.get(annotation.annotator)
        is_later = before is None or annotation.updated_at >= before.updated_at
        if is_later and not annotation.is_skipped:
            last[annotation.annotator] = annotation
    kept: list[tuple[Annotation, Region | None]] = []
    for annotation in task.annotations:
        latest = last.get(annotation.annotator, annotation)
        try:
            if annotation.annotator and latest is not annotation and not annotation.is_skipped:
                raise votes.NoVoteError("superseded by the same annotator")
            kept.append((annotation, _find_region(annotation, config, ties)))
        except votes.NoVoteError as reason:
            ledger.drop(str(reason), task, annotation)
    return kept


def _find_region(annotation: Annotation, config: LabelConfig, ties: Ties) -> Region | None:
    """Return the region that counts; None if nothing is chosen where that is a tie."""
    if annotation.is_skipped:
        raise votes.NoVoteError("skipped")
    if annotation.broken:
        raise votes.NoVoteError(f"unreadable: {annotation.broken}")
    regions = [r for r in annotation.regions if r.control == config.control]
    if not regions:
        if config.kind == "pairwise" and ties == "half":
            return None
        raise votes.NoVoteError(
            "nothing chosen" if not annotation.regions else "no choice in its controls"
        )
    if any(region.value != regions[0].value for region in regions):
        raise votes.NoVoteError("several different choices in one annotation")
    return regions[0]


def _ask_task(
    task: Task, kept: Submissions, config: LabelConfig, ties: Ties, ledger: Ledger
) -> Question | None:
    """Return a pairwise or ranker task's question with its votes; None without any."""
    try:
        prompt = votes.read_text(task.data.get(config.find_key("prompt", task.data)), "prompt")
        answers = votes.read_answers(task.data, config)
    except votes.NoVoteError as reason:
        for annotation, _ in kept:
            ledger.drop(str(reason), task, annotation)
        return None
    question = Question(prompt, [text for _, text in answers], task.source, config.kind)
    for annotation, region in kept:
        try:
            if config.kind == "pairwise":
                cast = [(0, 1, votes.read_choice(region, ties))]
            else:
                assert region is not None  # nothing chosen is a tie in pairwise tasks alone
                cast = votes.read_ranking(region, answers, config)
        except votes.NoVoteError as reason:
            ledger.drop(str(reason), task, annotation)
            continue
        question.votes += [Vote(annotation.annotator, *vote) for vote in cast]
        ledger.use(task, annotation)
    return question if question.votes else None


def _add_ratings(
    rated: dict[str, RatedPrompt],
    task: Task,
    kept: Submissions,
    config: LabelConfig,
    ledger: Ledger,
) -> None:
    for annotation, region in kept:
        try:
            data = task.data
            prompt = votes.read_text(data.get(config.find_key("prompt", data)), "prompt")
            response = votes.read_text(data.get(config.find_key("response", data)), "answer")
            rating = region.value.get("rating") if region is not None else None
            if not annotation.annotator:
                raise votes.NoVoteError("a rating by nobody named, comparable with no other")
            if isinstance(rating, bool) or not isinstance(rating, int | float):
                raise votes.NoVoteError("a rating that is no number")
        except votes.NoVoteError as reason:
            ledger.drop(str(reason), task, annotation)
            continue
        entry = rated.setdefault(prompt, RatedPrompt(prompt, task.source))
        if response not in entry.responses:
            entry.responses.append(response)
        index = entry.responses.index(response)
        entry.ratings[annotation.annotator].append((index, float(rating), task, annotation))


def _compare(rated: RatedPrompt, ties: Ties, ledger: Ledger) -> Question:
    """Compare each annotator's ratings of one prompt with each other."""
    question = Question(rated.prompt, rated.responses, rated.source, "rating")
    for annotator, ratings in rated.ratings.items():
        useful = set()
        for (a, left, *_), (b, right, *_) in combinations(ratings, 2):
            if a == b or (left == right and ties == "drop"):
                continue
            share = TIE if left == right else float((left > right) == (a < b))
            question.votes.append(Vote(annotator, min(a, b), max(a, b), share))
            useful |= {a, b}
        for index, _, task, annotation in ratings:
            if index in useful:
                ledger.use(task, annotation)
            elif len(ratings) == 1:
                ledger.drop("the only rating of its prompt by its annotator", task, annotation)
            else:
                ledger.drop("rated as all others of its prompt", task, annotation)
    return question
