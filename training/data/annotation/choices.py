"""What one region of a pairwise or ranker task says about the task's responses."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from training.arguments.parsing import UserError
from training.data.annotation.config import LabelConfig
from training.data.annotation.export import Region
from training.data.annotation.votes import TIE, NoVoteError, Ties, text_of


def answers_of(data: Mapping[str, Any], config: LabelConfig) -> list[tuple[str, str]]:
    """(id, text) of each response of a pairwise or ranker task."""
    if config.kind == "pairwise":
        keys = config.answer_keys(data)
        texts = [text_of(data.get(key), "answer") for key in keys]
        if texts[0] == texts[1]:
            raise NoVoteError("both answers are the same")
        return list(zip(("left", "right"), texts, strict=True))
    return [_item(item) for item in _items(data.get(config.items_key(data)))]


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):  # CSV
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or len(value) < 2:
        raise NoVoteError("the task has no list of answers")
    return value


def _item(item: Any) -> tuple[str, str]:
    if not isinstance(item, Mapping) or not isinstance(item.get("id"), str | int):
        raise NoVoteError("an answer of the task has no id")
    text = item.get("body") or item.get("text") or item.get("title")
    return str(item["id"]), text_of(text, "answer")


def choice_of(region: Region | None, ties: Ties) -> float:
    selected = region.value.get("selected") if region is not None else "none"
    if selected == "none":
        if ties == "drop":
            raise NoVoteError("tie")
        return TIE
    if selected not in ("left", "right"):
        raise NoVoteError("a choice that is neither left nor right")
    return 1.0 if selected == "left" else 0.0


def ranking_of(
    region: Region, answers: Sequence[tuple[str, str]], config: LabelConfig
) -> list[tuple[int, int, float]]:
    """All comparisons that a ranking says something about; what it leaves out has no preference."""
    ranked = region.value.get("ranker")
    if not isinstance(ranked, Mapping):
        raise NoVoteError("a ranking that is no object")
    place = {item: index for index, (item, _) in enumerate(answers)}
    if len(place) < len(answers):
        raise NoVoteError("two answers of the task have one id")
    levels: list[list[int]] = []
    is_one_list = not config.buckets and set(ranked) <= {config.control}
    for name in [config.control] if is_one_list else _bucket_names(ranked, config):
        ids = ranked.get(name, [])
        if not isinstance(ids, list) or not all(str(item) in place for item in ids):
            raise NoVoteError("a ranking of answers that the task does not have")
        found = [place[str(item)] for item in ids]
        levels += [[index] for index in found] if is_one_list else [found]
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


def _bucket_names(ranked: Mapping[str, Any], config: LabelConfig) -> list[str]:
    names = [str(name) for name in ranked if name != "_"]  # "_" holds what was left unsorted
    if not config.buckets:
        raise UserError(
            f"the export ranks by buckets ({', '.join(names)}), and does not say which is the "
            "better one; give the project's labelling config with --label_config"
        )
    if set(names) - set(config.buckets):
        raise NoVoteError("a ranking in buckets that the config does not have")
    return list(config.buckets)
