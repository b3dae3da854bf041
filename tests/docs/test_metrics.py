"""docs/metrics.md explains every metric, and nothing that is not one."""

import ast
import re
from collections.abc import Iterable

from tests.docs.pages import DOCS, ROOT
from training.trainers.ppo.alarms import ALARMS

PAGE = DOCS / "metrics.md"
HELD_OUT = "eval/"  # a rollout's metric on held-out prompts


def read_glossary() -> set[str]:
    """The metrics in the first column of the page's tables."""
    first = re.findall(r"^\| (`[^|]+`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}


def find_unexplained(names: Iterable[str]) -> list[str]:
    known = read_glossary()
    return sorted(name for name in names if not {name, name.removeprefix(HELD_OUT)} & known)


def collect_metric_names() -> set[str]:
    """Strings of the package that are names of metrics: a group of the glossary, /, a name."""
    groups = "|".join({name.partition("/")[0] for name in read_glossary()})
    pattern = re.compile(rf"(?:{groups})(?:/[a-z0-9_]+)+")
    return {
        node.value
        for file in (ROOT / "training").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and pattern.fullmatch(node.value)
    }


def test_every_metric_in_the_code_is_explained():
    names = collect_metric_names()
    assert len(names) > 40
    assert find_unexplained(names) == []


def test_every_explained_metric_is_in_the_code():
    made = {f"alarm/{name}" for name in ALARMS}
    phases = ("generate", "score", "update")
    made |= {f"speed/{phase}_{kind}" for phase in phases for kind in ("tokens_per_s", "roofline")}
    assert read_glossary() - collect_metric_names() - made == set()


def test_every_alarm_is_explained():
    assert find_unexplained(f"alarm/{name}" for name in ALARMS) == []
    assert find_unexplained(["policy/no_such_metric"]) == ["policy/no_such_metric"]
