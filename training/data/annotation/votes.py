"""From annotations to votes: who held which of two responses for the better one.

Every annotation ends in a vote or in a named reason why not; the `Ledger` keeps both.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

from training.arguments.parsing import UserError
from training.data.annotation.config import LabelConfig
from training.data.annotation.export import Annotation, Region, Task

Ties = Literal["drop", "half"]
KINDS = ("pairwise", "ranker", "rating")
TIE = 0.5


@dataclass(frozen=True)
class Vote:
    """One annotator on two responses of a question; `share` is 1 for the first, 0 for the second,
    a half for a tie. Of a pairwise task the first is the left one.
    """

    annotator: str
    first: int
    second: int
    share: float


@dataclass
class Question:
    """A prompt, its responses, and all votes on two of them."""

    prompt: str
    responses: list[str]
    source: str
    kind: str
    votes: list[Vote] = field(default_factory=list)


@dataclass
class Ledger:
    """What became of each annotation: (task id, annotation id) by reason, or used."""

    used: list[tuple[str, str]] = field(default_factory=list)
    dropped: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def drop(self, reason: str, task: Task, annotation: Annotation) -> None:
        self.dropped[reason].append((task.task_id, annotation.annotation_id))


class _NoVoteError(Exception):
    """Why an annotation has no vote in it."""


def collect_votes(
    tasks: Sequence[Task], config: LabelConfig, *, ties: Ties
) -> tuple[list[Question], Ledger]:
    """Questions with at least one vote, in the tasks' order, and what became of each annotation."""
    config = _one_control(tasks, config)
    ledger = Ledger()
    questions: list[Question] = []
    rated: dict[str, _RatedPrompt] = {}
    for task in tasks:
        kept = _latest(task, config, ties, ledger)
        if config.kind == "rating":
            _add_ratings(rated, task, kept, config, ledger)
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
                f"--label_control {config.control}: the export has only "
                f"{', '.join(sorted(control for control, _ in found))}"
            )
        return LabelConfig(**{**vars(config), "kind": config.kind or "pairwise"})
    control, kind = next(iter(named))
    return LabelConfig(**{**vars(config), "control": control, "kind": kind})


def _latest(
    task: Task, config: LabelConfig, ties: Ties, ledger: Ledger
) -> list[tuple[Annotation, Region | None]]:
    """Annotations with something to read, the last one of each annotator, with its region."""
    kept: list[tuple[Annotation, Region | None]] = []
    for annotation in task.annotations:
        try:
            kept.append((annotation, _region_of(annotation, config, ties)))
        except _NoVoteError as reason:
            ledger.drop(str(reason), task, annotation)
    last: dict[str, Annotation] = {}
    for annotation, _ in kept:
        before = last.get(annotation.annotator)
        if before is None or annotation.updated_at >= before.updated_at:
            last[annotation.annotator] = annotation
    final = []
    for annotation, region in kept:
        if annotation.annotator and last[annotation.annotator] is not annotation:
            ledger.drop("superseded by the same annotator", task, annotation)
        else:
            final.append((annotation, region))
    return final


def _region_of(annotation: Annotation, config: LabelConfig, ties: Ties) -> Region | None:
    """The region that counts; None for a submission with nothing chosen, where that is a tie."""
    if annotation.is_skipped:
        raise _NoVoteError("skipped")
    if annotation.broken:
        raise _NoVoteError(f"unreadable: {annotation.broken}")
    regions = [r for r in annotation.regions if r.control == config.control]
    if not regions:
        if config.kind == "pairwise" and ties == "half":
            return None
        raise _NoVoteError(
            "nothing chosen" if not annotation.regions else "no choice in its controls"
        )
    if any(region.value != regions[0].value for region in regions):
        raise _NoVoteError("several different choices in one annotation")
    return regions[0]


def _question(
    task: Task, config: LabelConfig, ledger: Ledger, annotations: Sequence[Annotation]
) -> Question | None:
    """The task's prompt and responses; without them its annotations are dropped."""
    try:
        prompt = _text(task.data.get(config.prompt_key(task.data)), "prompt")
        responses = _answers(task.data, config)
    except _NoVoteError as reason:
        for annotation in annotations:
            ledger.drop(str(reason), task, annotation)
        return None
    return Question(prompt, [text for _, text in responses], task.source, config.kind)


def _answers(data: Mapping[str, Any], config: LabelConfig) -> list[tuple[str, str]]:
    """(id, text) of each response of a pairwise or ranker task."""
    if config.kind == "pairwise":
        keys = config.answer_keys(data)
        texts = [_text(data.get(key), "answer") for key in keys]
        if texts[0] == texts[1]:
            raise _NoVoteError("both answers are the same")
        return list(zip(("left", "right"), texts, strict=True))
    return [_item(item) for item in _items(data.get(config.items_key(data)))]


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):  # CSV
        import json

        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or len(value) < 2:
        raise _NoVoteError("the task has no list of answers")
    return value


def _item(item: Any) -> tuple[str, str]:
    if not isinstance(item, Mapping) or not isinstance(item.get("id"), str | int):
        raise _NoVoteError("an answer of the task has no id")
    text = item.get("body") or item.get("text") or item.get("title")
    return str(item["id"]), _text(text, "answer")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _NoVoteError(f"the task has no {name}")
    if not value.strip():
        raise _NoVoteError(f"the task has an empty {name}")
    return value


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
            votes = [(0, 1, _choice(region, ties))]
        else:
            assert region is not None  # nothing chosen is a tie in pairwise tasks alone
            votes = _ranking(region, _answers(task.data, config), config)
    except _NoVoteError as reason:
        ledger.drop(str(reason), task, annotation)
        return
    question.votes += [Vote(annotation.annotator, *vote) for vote in votes]
    ledger.used.append((task.task_id, annotation.annotation_id))


def _choice(region: Region | None, ties: Ties) -> float:
    selected = region.value.get("selected") if region is not None else "none"
    if selected == "none":
        if ties == "drop":
            raise _NoVoteError("tie")
        return TIE
    if selected not in ("left", "right"):
        raise _NoVoteError("a choice that is neither left nor right")
    return 1.0 if selected == "left" else 0.0


def _ranking(
    region: Region, answers: Sequence[tuple[str, str]], config: LabelConfig
) -> list[tuple[int, int, float]]:
    """All comparisons that a ranking says something about; what it leaves out has no preference."""
    ranked = region.value.get("ranker")
    if not isinstance(ranked, Mapping):
        raise _NoVoteError("a ranking that is no object")
    place = {item: index for index, (item, _) in enumerate(answers)}
    levels: list[list[int]] = []
    is_one_list = not config.buckets and set(ranked) <= {config.control}
    for name in [config.control] if is_one_list else _bucket_names(ranked, config):
        ids = ranked.get(name, [])
        if not isinstance(ids, list) or not all(str(item) in place for item in ids):
            raise _NoVoteError("a ranking of answers that the task does not have")
        found = [place[str(item)] for item in ids]
        levels += [[index] for index in found] if is_one_list else [found]
    everything = [index for level in levels for index in level]
    if len(set(everything)) < len(everything):
        raise _NoVoteError("a ranking that names an answer twice")
    votes = [
        (min(better, worse), max(better, worse), 1.0 if better < worse else 0.0)
        for above, below in combinations(levels, 2)
        for better in above
        for worse in below
        if answers[better][1] != answers[worse][1]
    ]
    if not votes:
        raise _NoVoteError("a ranking that orders nothing")
    return votes


def _bucket_names(ranked: Mapping[str, Any], config: LabelConfig) -> list[str]:
    names = [str(name) for name in ranked if name != "_"]  # "_" holds what was left unsorted
    if not config.buckets:
        raise UserError(
            f"the export ranks by buckets ({', '.join(names)}), and does not say which is the "
            "better one; give the project's labelling config with --label_config"
        )
    if set(names) - set(config.buckets):
        raise _NoVoteError("a ranking in buckets that the config does not have")
    return list(config.buckets)


@dataclass
class _RatedPrompt:
    """Ratings of responses to one prompt, from all tasks that have it."""

    prompt: str
    source: str
    responses: list[str] = field(default_factory=list)
    ratings: dict[str, list[tuple[int, float, Task, Annotation]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def question(self, ties: Ties, ledger: Ledger) -> Question:
        """Votes of each annotator, whose own ratings alone are comparable."""
        question = Question(self.prompt, self.responses, self.source, "rating")
        for annotator, given in self.ratings.items():
            useful = set()
            for (a, left, *_), (b, right, *_) in combinations(given, 2):
                if a == b or (left == right and ties == "drop"):
                    continue
                share = TIE if left == right else float((left > right) == (a < b))
                question.votes.append(Vote(annotator, min(a, b), max(a, b), share))
                useful |= {a, b}
            for index, _, task, annotation in given:
                if index in useful:
                    ledger.used.append((task.task_id, annotation.annotation_id))
                elif len(given) == 1:
                    ledger.drop("the only rating of its prompt by its annotator", task, annotation)
                else:
                    ledger.drop("rated as all others of its prompt", task, annotation)
        return question


def _add_ratings(
    rated: dict[str, _RatedPrompt],
    task: Task,
    kept: Sequence[tuple[Annotation, Region | None]],
    config: LabelConfig,
    ledger: Ledger,
) -> None:
    for annotation, region in kept:
        try:
            prompt = _text(task.data.get(config.prompt_key(task.data)), "prompt")
            response = _text(task.data.get(config.response_key(task.data)), "answer")
            rating = region.value.get("rating") if region is not None else None
            if isinstance(rating, bool) or not isinstance(rating, int | float):
                raise _NoVoteError("a rating that is no number")
        except _NoVoteError as reason:
            ledger.drop(str(reason), task, annotation)
            continue
        entry = rated.setdefault(prompt, _RatedPrompt(prompt, task.source))
        if response not in entry.responses:
            entry.responses.append(response)
        place = entry.responses.index(response)
        entry.ratings[annotation.annotator].append((place, float(rating), task, annotation))
