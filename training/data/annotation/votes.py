"""What annotations come to: votes on two responses, or a named reason why there is none."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

from training.data.annotation.export import Annotation, Task

Ties = Literal["drop", "half"]
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


class NoVoteError(Exception):
    """Why an annotation has no vote in it."""


def text_of(value: Any, name: str) -> str:
    """Text of a task's data that is not empty."""
    if not isinstance(value, str):
        raise NoVoteError(f"the task has no {name}")
    if not value.strip():
        raise NoVoteError(f"the task has an empty {name}")
    return value
