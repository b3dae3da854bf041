"""Annotation tasks from sampled responses: which responses, in which order, on which page."""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from itertools import chain, combinations, zip_longest
from pathlib import Path
from typing import Any

from training.draws import make_random

# Pages of a project. Label Studio escapes the text of a Style, so no rule in it may contain ">".
PAIRWISE_CONFIG = Path(__file__).with_name("pairwise.xml").read_text(encoding="utf-8")
RANKER_CONFIG = Path(__file__).with_name("ranker.xml").read_text(encoding="utf-8")

Task = dict[str, Any]


@dataclass(frozen=True)
class Sampled:
    """A response and where it came from."""

    text: str
    temperature: float
    sample: int


def select_distinct(
    candidates: Sequence[Sampled], count: int, *, most_alike: float
) -> list[Sampled]:
    """Select at most `count` distinct responses, spread over the temperatures.

    Skips empty responses, those with control characters, and those more alike than `most_alike`
    (0: nothing shared, 1: the same words) to a selected one.
    """
    by_temperature: dict[float, list[Sampled]] = {}
    for candidate in candidates:
        by_temperature.setdefault(candidate.temperature, []).append(candidate)
    selected: list[Sampled] = []
    for candidate in chain.from_iterable(zip_longest(*by_temperature.values())):
        if len(selected) == count:
            break
        if (
            candidate is not None
            and is_showable(candidate.text)
            and all(measure_likeness(candidate.text, s.text) <= most_alike for s in selected)
        ):
            selected.append(candidate)
    return selected


def is_showable(text: str) -> bool:
    """True for text that is not empty and has no control characters, which databases refuse."""
    controls = (char for char in text if unicodedata.category(char) == "Cc")
    return bool(text.strip()) and all(char in "\t\n\r" for char in controls)


def measure_likeness(first: str, second: str) -> float:
    """Return how alike two texts are, 0 to 1, by their words in order, ignoring case."""
    left, right = _split_words(first), _split_words(second)
    if left == right:
        return 1.0
    return SequenceMatcher(None, left, right, autojunk=False).ratio()


def _split_words(text: str) -> list[str]:
    # A Chinese character counts as a word.
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+", text.lower())


def make_pairwise_tasks(
    prompt: str, responses: Sequence[Sampled], *, pairs: int, seed: str
) -> list[Task]:
    """Make `pairs` comparisons of these responses (0: all), left and right at random.

    The first comparisons use each response once.
    """
    draw = make_random("pairs", seed)
    order = list(range(len(responses)))
    draw.shuffle(order)
    disjoint = list(zip(order[::2], order[1::2], strict=False))
    rest = [pair for pair in combinations(order, 2) if pair not in disjoint]
    draw.shuffle(rest)
    chosen = [*disjoint, *rest][: pairs or None]
    tasks = []
    for pair in chosen:
        data: Task = {"prompt": prompt}
        for number, index in enumerate(draw.sample(pair, 2), start=1):
            data[f"answer{number}"] = responses[index].text
            data[f"origin{number}"] = _describe_origin(responses[index])
        tasks.append({"data": data})
    return tasks


def make_ranker_task(prompt: str, responses: Sequence[Sampled], *, seed: str) -> Task:
    """Make a task to rank all responses, which are shown in random order.

    Label Studio sorts numeric ids, and keeps the given order if nobody moves anything.
    """
    shuffled = make_random("rank", seed).sample(list(responses), len(responses))
    items = [
        {"id": f"a{number}", "title": f"Answer {number}", "body": response.text}
        for number, response in enumerate(shuffled, start=1)
    ]
    origins = {f"a{number}": _describe_origin(r) for number, r in enumerate(shuffled, start=1)}
    return {"data": {"prompt": prompt, "items": items, "origins": origins}}


def _describe_origin(response: Sampled) -> dict[str, Any]:
    return {key: value for key, value in asdict(response).items() if key != "text"}


def add_prediction(task: Task, scores: tuple[float, float], *, model_version: str) -> Task:
    """Return the task with a reward model's choice as its prediction.

    `score` is its certainty: the Bradley-Terry probability of the side it prefers.
    """
    left, right = scores
    certainty = 1.0 / (1.0 + math.exp(-abs(left - right)))
    region = {
        "id": "prediction",
        "from_name": "comparison",
        "to_name": "answer1",  # the import checks that this is an object of the page
        "type": "pairwise",
        "value": {"selected": "left" if left >= right else "right"},
    }
    prediction = {"result": [region], "score": round(certainty, 6), "model_version": model_version}
    return {**task, "predictions": [prediction]}


def sort_by_certainty(tasks: Sequence[Task]) -> list[Task]:
    """Sort predicted tasks, the least certain first: there a person's choice teaches most."""
    return sorted(tasks, key=lambda task: float(task["predictions"][0]["score"]))
