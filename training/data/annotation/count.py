"""From the annotations of an export to questions with votes, and an account of the rest."""

from collections.abc import Sequence
from dataclasses import replace

from training.arguments.parsing import UserError
from training.data.annotation.choices import answers_of, choice_of, ranking_of
from training.data.annotation.config import LabelConfig
from training.data.annotation.export import Annotation, Region, Task
from training.data.annotation.ratings import RatedPrompt, add_ratings
from training.data.annotation.votes import Ledger, NoVoteError, Question, Ties, Vote, text_of

KINDS = ("pairwise", "ranker", "rating")


def collect_votes(
    tasks: Sequence[Task], config: LabelConfig, *, ties: Ties
) -> tuple[list[Question], Ledger]:
    """Questions with at least one vote, in the tasks' order, and what became of each annotation."""
    config = _one_control(tasks, config)
    ledger = Ledger()
    questions: list[Question] = []
    rated: dict[str, RatedPrompt] = {}
    for task in tasks:
        kept = _latest(task, config, ties, ledger)
        if config.kind == "rating":
            add_ratings(rated, task, kept, config, ledger)
            continue
        question = _question(task, config, ledger, [annotation for annotation, _ in kept])
        if question is None:
            continue
        for annotation, region in kept:
            _vote(question, task, annotation, region, config, ties, ledger)
        if question.votes:
            questions.append(question)
    questions += [q for prompt in rated.values() if (q := prompt.question(ties, ledger)).votes]
    return questions, ledger


def _one_control(tasks: Sequence[Task], config: LabelConfig) -> LabelConfig:
    """The config with the control and kind whose choices count, found in the regions if unsaid."""
    found = {
        (region.control, region.kind)
        for task in tasks
        for annotation in task.annotations
        for region in annotation.regions
        if region.kind in KINDS
    }
    named = {pair for pair in found if not config.control or pair[0] == config.control}
    if len(named) > 1:
        names = sorted(control for control, _ in named)
        raise UserError(
            f"the export has several controls that could count ({', '.join(names)}); name one with "
            "--label_control"
        )
    if not named:
        if found:
            raise UserError(
                f"the control {config.control} (of --label_config or --label_control) is not in "
                f"the export, which has {', '.join(sorted(control for control, _ in found))}"
            )
        return replace(config, kind=config.kind or "pairwise")
    control, kind = next(iter(named))
    return replace(config, control=control, kind=kind)


def _latest(
    task: Task, config: LabelConfig, ties: Ties, ledger: Ledger
) -> list[tuple[Annotation, Region | None]]:
    """The last submission of each annotator, with its region where it can be read.

    A later one takes the place of an earlier one whatever it says; a skip says nothing and leaves
    an earlier submission as it is. Who is not named may be anybody.
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
                raise NoVoteError("superseded by the same annotator")
            kept.append((annotation, _region_of(annotation, config, ties)))
        except NoVoteError as reason:
            ledger.drop(str(reason), task, annotation)
    return kept


def _region_of(annotation: Annotation, config: LabelConfig, ties: Ties) -> Region | None:
    """The region that counts; None for a submission with nothing chosen, where that is a tie."""
    if annotation.is_skipped:
        raise NoVoteError("skipped")
    if annotation.broken:
        raise NoVoteError(f"unreadable: {annotation.broken}")
    regions = [r for r in annotation.regions if r.control == config.control]
    if not regions:
        if config.kind == "pairwise" and ties == "half":
            return None
        raise NoVoteError(
            "nothing chosen" if not annotation.regions else "no choice in its controls"
        )
    if any(region.value != regions[0].value for region in regions):
        raise NoVoteError("several different choices in one annotation")
    return regions[0]


def _question(
    task: Task, config: LabelConfig, ledger: Ledger, annotations: Sequence[Annotation]
) -> Question | None:
    """The task's prompt and responses; without them its annotations are dropped."""
    try:
        prompt = text_of(task.data.get(config.prompt_key(task.data)), "prompt")
        responses = answers_of(task.data, config)
    except NoVoteError as reason:
        for annotation in annotations:
            ledger.drop(str(reason), task, annotation)
        return None
    return Question(prompt, [text for _, text in responses], task.source, config.kind)


def _vote(
    question: Question,
    task: Task,
    annotation: Annotation,
    region: Region | None,
    config: LabelConfig,
    ties: Ties,
    ledger: Ledger,
) -> None:
    try:
        if config.kind == "pairwise":
            votes = [(0, 1, choice_of(region, ties))]
        else:
            assert region is not None  # nothing chosen is a tie in pairwise tasks alone
            votes = ranking_of(region, answers_of(task.data, config), config)
    except NoVoteError as reason:
        ledger.drop(str(reason), task, annotation)
        return
    question.votes += [Vote(annotation.annotator, *vote) for vote in votes]
    ledger.used.append((task.task_id, annotation.annotation_id))
