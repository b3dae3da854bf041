"""Ratings of single responses become comparisons of those that answer one prompt."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from training.data.annotation.config import LabelConfig
from training.data.annotation.export import Annotation, Region, Task
from training.data.annotation.votes import (
    TIE,
    Ledger,
    NoVoteError,
    Question,
    Ties,
    Vote,
    text_of,
)


@dataclass
class RatedPrompt:
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


def add_ratings(
    rated: dict[str, RatedPrompt],
    task: Task,
    kept: Sequence[tuple[Annotation, Region | None]],
    config: LabelConfig,
    ledger: Ledger,
) -> None:
    """Put a task's ratings with those of its prompt."""
    for annotation, region in kept:
        try:
            prompt = text_of(task.data.get(config.prompt_key(task.data)), "prompt")
            response = text_of(task.data.get(config.response_key(task.data)), "answer")
            rating = region.value.get("rating") if region is not None else None
            if not annotation.annotator:
                raise NoVoteError("a rating by nobody named, comparable with no other")
            if isinstance(rating, bool) or not isinstance(rating, int | float):
                raise NoVoteError("a rating that is no number")
        except NoVoteError as reason:
            ledger.drop(str(reason), task, annotation)
            continue
        entry = rated.setdefault(prompt, RatedPrompt(prompt, task.source))
        if response not in entry.responses:
            entry.responses.append(response)
        place = entry.responses.index(response)
        entry.ratings[annotation.annotator].append((place, float(rating), task, annotation))
