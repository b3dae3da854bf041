"""Votes on two responses, and how a choice or a ranking becomes votes or is no vote by a reason."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

from training.arguments.parsing import UserError
from training.data.annotation.config import LabelConfig
from training.data.annotation.export import Annotation, Region, Task

Ties = Literal["drop", "half"]
TIE = 0.5


@dataclass(frozen=True)
class Vote:
    """One annotator on two responses of a question.

    `share` is 1 for the first, 0 for the second, a half for a tie. In a pairwise task the first is
    the left one.
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
    """Each annotation as (task id, annotation id): used, or dropped by reason."""

    used: list[tuple[str, str]] = field(default_factory=list)
    dropped: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def use(self, task: Task, annotation: Annotation) -> None:
        self.used.append((task.task_id, annotation.annotation_id))

    def drop(self, reason: str, task: Task, annotation: Annotation) -> None:
        self.dropped[reason].append((task.task_id, annotation.annotation_id))


class NoVoteError(Exception):
    """The reason why an annotation holds no vote."""


def read_text(value: Any, name: str) -> str:
    """Return a text of a task's data; it must not be empty."""
    if not isinstance(value, str):
        raise NoVoteError(f"the task has no {name}")
    if not value.strip():
        raise NoVoteError(f"the task has an empty {name}")
    return value


def read_answers(data: Mapping[str, Any], config: LabelConfig) -> list[tuple[str, str]]:
    """Return (id, text) of each response of a pairwise or ranker task."""
    if config.kind == "pairwise":
        keys = config.find_answer_keys(data)
        texts = [read_text(data.get(key), "answer") for key in keys]
        if texts[0] == texts[1]:
            raise NoVoteError("both answers are the same")
        return list(zip(("left", "right"), texts, strict=True))
    items = data.get(config.find_key("items", data))
    if isinstance(items, str):  # CSV
        try:
            items = json.loads(items)
        except (ValueError, RecursionError):
            items = None
    if not isinstance(items, list) or len(items) < 2:
        raise NoVoteError("the task has no list of answers")
    answers = []
    for item in items:
        if not isinstance(item, Mapping) or not isinstance(item.get("id"), str | int):
            raise NoVoteError("an answer of the task has no id")
        text = item.get("body") or item.get("text") or item.get("title")
        answers.append((str(item["id"]), read_text(text, "answer")))
    return answers


def read_choice(region: Region | None, ties: Ties) -> float:
    """Return a choice as a vote's `share`."""
    selected = region.value.get("selected") if region is not None else "none"
    if selected == "none":
        if ties == "drop":
            raise NoVoteError("tie")
        return TIE
    if selected not in ("left", "right"):
        raise NoVoteError("a choice that is neither left nor right")
    return 1.0 if selected == "left" else 0.0


def read_ranking(
    region: Region, answers: Sequence[tuple[str, str]], config: LabelConfig
) -> list[tuple[int, int, float]]:
    """Return (first, second, share) of all comparisons that a ranking, maybe partial, decides."""
    ranked = region.value.get("ranker")
    if not isinstance(ranked, Mapping):
        raise NoVoteError("a ranking that is no object")
    index_of = {item: index for index, (item, _) in enumerate(answers)}
    if len(index_of) < len(answers):
        raise NoVoteError("two answers of the task have one id")
    levels: list[list[int]] = []
    is_one_list = not config.buckets and set(ranked) <= {config.control}
    for name in [config.control] if is_one_list else _list_buckets(ranked, config):
        ids = ranked.get(name, [])
        if not isinstance(ids, list) or not all(str(item) in index_of for item in ids):
            raise NoVoteError("a ranking of answers that the task does not have")
        level = [index_of[str(item)] for item in ids]
        levels += [[index] for index in level] if is_one_list else [level]
    everything = [index for level in levels for index in level]
    if len(set(everything)) < len(everything):
        raise NoVoteError("a ranking that names an answer twice")
    votes = [
        (min(better, worse), max(better, worse), 1.0 if better < worse else 0.0)
        for above, below in combinations(levels, 2)
        for better in above
        for worse in below
        if answers[better][1] != answers[worse][1]
    ]
    if not votes:
        raise NoVoteError("a ranking that orders nothing")
    return votes


def _list_buckets(ranked: Mapping[str, Any], config: LabelConfig) -> list[str]:
    names = [str(name) for name in ranked if name != "_"]  # "_" holds what was left unsorted
    if not config.buckets:
        raise UserError(
            f"the export ranks by buckets ({', '.join(names)}), and does not say which is the "
            "better one; give the project's labelling config with --label_config"
        )
    if set(names) - set(config.buckets):
        raise NoVoteError("a ranking in buckets that the config does not have")
    return list(config.buckets)
