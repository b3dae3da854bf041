"""The input of the three stages: a small GPT-2 and data of invented sentences.

The tokenizer has no PAD, as GPT-2's has none; the model has dropout; prompts and responses are of
many lengths.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tiny_models

POSITIONS = 256  # the defaults of the stages need them


def words(text: str) -> list[str]:
    return text.split()


ADJECTIVES = words("small old red quiet bright cold warm long broken green")
NOUNS = words("boat garden kettle lantern bridge fox violin ladder harbour window")
VERBS = words("waits turns sings falls shines leaks moves sleeps")
PLACES = ["near the sea", "behind the house", "under a tree", "in the rain", "by the wall"]
REST = words("the a and is of what tell me about why does it now again . ? ,")
WORDS = [tiny_models.EOS, "<unk>", *ADJECTIVES, *NOUNS, *VERBS, *" ".join(PLACES).split(), *REST]


@dataclass(frozen=True)
class Material:
    """`base` is a model folder; `data` holds sft, reward and ppo.{train,dev}.jsonl."""

    base: Path
    data: Path

    def file(self, stage: str, split: str = "train") -> Path:
        return self.data / f"{stage}.{split}.jsonl"


def write_material(folder: Path) -> Material:
    """A base model and the data of all stages, in an example's layout."""
    data = folder / "movie_reviews"
    data.mkdir(parents=True)
    rows = {"sft": demonstrations(48), "reward": comparisons(34), "ppo": prompts(26)}
    for stage, train in rows.items():
        write_jsonl(data / f"{stage}.train.jsonl", train[6:])
        write_jsonl(data / f"{stage}.dev.jsonl", train[:6])
    return Material(write_base(folder / "base"), data)


def write_base(folder: Path, *, known: list[str] = WORDS, positions: int = POSITIONS) -> Path:
    """A GPT-2 folder with random weights, dropout 0.1 and no PAD token."""
    distinct = list(dict.fromkeys(known))
    lm = tiny_models.gpt2(len(distinct), n_positions=positions, bos_token_id=0, eos_token_id=0)
    tiny_models.write_lm(folder, lm, tiny_models.build_tokenizer(distinct, pad=None))
    return folder


def sentence(draw: random.Random) -> str:
    text = f"the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)} {draw.choice(VERBS)}"
    if draw.random() < 0.6:
        text += f" {draw.choice(PLACES)}"
    if draw.random() < 0.3:
        text += f" and it {draw.choice(VERBS)} again"
    return f"{text} ."


def prompt(draw: random.Random) -> str:
    about = f"the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}"
    kinds = (
        f"tell me about {about} .",
        f"why does {about} {draw.choice(VERBS)} ?",
        f"what is {about} {draw.choice(PLACES)} , and what is it of ?",
    )
    return draw.choice(kinds)


def demonstrations(count: int) -> list[dict[str, Any]]:
    draw = random.Random(1)
    rows = []
    for text in prompts(count):
        response = " ".join(sentence(draw) for _ in range(draw.choice([1, 1, 2, 3])))
        rows.append({**text, "response": f" {response}"})
    return rows


def comparisons(count: int) -> list[dict[str, Any]]:
    """Pairs, and every third row a group; it is better to sleep near the sea."""
    draw = random.Random(2)
    rows: list[dict[str, Any]] = []
    for index, text in enumerate(prompts(count)):
        good, bad = f" {sentence(draw)} it sleeps near the sea .", f" {sentence(draw)}"
        if index % 3:
            rows.append({**text, "chosen": good, "rejected": bad})
        else:
            responses = [good, bad, f" the fox {draw.choice(VERBS)} ?"]
            pairs: list[list[float]] = [[0, 1], [1, 2, 0.8], [0, 2]]
            rows.append({**text, "responses": responses, "pairs": pairs, "gaps": [1.5, 0.5, 2.0]})
    return rows


def prompts(count: int) -> list[dict[str, Any]]:
    draw = random.Random(3)
    distinct: dict[str, None] = {}
    while len(distinct) < count:
        distinct[prompt(draw)] = None
    return [{"prompt": text} for text in distinct]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
