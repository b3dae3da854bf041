"""How to read a project's tasks: which data keys hold the answers, which control the choice.

Both come from the labelling config if it is given, else from the names that collect.sh writes.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.arguments.parsing import UserError

# Usual names of a task's data.
KEYS = {
    "prompt": ("prompt", "question", "instruction"),
    "items": ("items", "answers", "responses"),
    "response": ("response", "answer"),
}
ANSWER_KEYS = (("answer1", "answer2"), ("response1", "response2"), ("response_a", "response_b"))
CONTROLS = {"Pairwise": "pairwise", "Ranker": "ranker", "Rating": "rating"}


@dataclass(frozen=True)
class LabelConfig:
    """Data keys of prompt, answers (left, right), items and single response; the control that
    counts and its kind; a ranker's buckets, best first. Empty if the config does not name them.
    """

    prompt: str = ""
    answers: tuple[str, str] | None = None
    items: str = ""
    response: str = ""
    control: str = ""
    kind: str = ""
    buckets: tuple[str, ...] = ()

    def find_key(self, what: str, data: Mapping[str, Any]) -> str:
        """Return the data key of prompt, items or response; "" if the data have none."""
        named = getattr(self, what)
        return next((key for key in ((named,) if named else KEYS[what]) if key in data), "")

    def find_answer_keys(self, data: Mapping[str, Any]) -> tuple[str, str]:
        """Return the keys of left and right; ("", "") if the data have neither."""
        known = [self.answers] if self.answers else ANSWER_KEYS
        return next((pair for pair in known if all(key in data for key in pair)), ("", ""))


def read_page(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--label_config {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--label_config {path}: is not UTF-8: {error}") from error


def parse_config(text: str, path: str, *, control: str = "") -> LabelConfig:
    """Parse the labelling config in XML of a file; `control` chooses among several controls."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"--label_config {path}: is no XML: {error}") from error
    tags = [tag for tag in root.iter() if tag.tag in CONTROLS]
    names = [tag.get("name", "") for tag in tags]
    if control and control not in names:
        raise UserError(f"--label_control {control}: {path} has only {names}")
    if control:
        tags = [tag for tag in tags if tag.get("name") == control]
    if len(tags) != 1:
        raise UserError(
            f"--label_config {path}: needs one Pairwise, Ranker or Rating whose choice counts, has "
            f"{names}; name one with --label_control"
        )
    return _build_config(tags[0], root, path)


def _build_config(tag: ElementTree.Element, root: ElementTree.Element, path: str) -> LabelConfig:
    kind = CONTROLS[tag.tag]
    objects = [name.strip() for name in tag.get("toName", "").split(",")]
    keys = {
        part.get("name", ""): part.get("value", "").removeprefix("$")
        for part in root.iter()
        if part.get("value", "").startswith("$")
    }
    missing = [name for name in objects if name not in keys]
    wanted = 2 if kind == "pairwise" else 1
    if missing or len(objects) != wanted:
        raise UserError(
            f"--label_config {path}: toName of {tag.tag} must name {wanted} object(s) with a "
            f'value="$...", got {tag.get("toName")!r}'
        )
    texts = [keys[name] for name in keys if name not in objects]
    used = [keys[name] for name in objects]
    buckets = tuple(part.get("name", "") for part in tag.iter("Bucket"))
    return LabelConfig(
        prompt=texts[0] if texts else "",
        answers=(used[0], used[1]) if kind == "pairwise" else None,
        items=used[0] if kind == "ranker" else "",
        response=used[0] if kind == "rating" else "",
        control=tag.get("name", ""),
        kind=kind,
        buckets=buckets,
    )
