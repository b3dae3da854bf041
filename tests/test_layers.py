"""Imports go down the layers, never up or sideways, and some libraries have one owner."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the bottom up. A unit imports itself and units of lower rows.
LAYERS = [
    {
        "training.arguments",
        "training.draws",
        "training.intervals",
        "training.judge",
        "training.paths",
        "training.tensors",
    },
    {"training.estimates", "training.launching"},
    {
        "training.hybrid_engine",
        "training.models",
        "training.data",
        "training.objectives",
        "training.runtime",
    },
    {"training.inference"},
    {"training.trainers", "training.evaluation"},
    {"training.preflight"},
    {"step1_sft", "step2_reward", "step3_ppo", "examples", "benchmarks", "training.self_check"},
]
LEVEL = {unit: level for level, row in enumerate(LAYERS) for unit in row}
PROGRAMS = LAYERS[-1]

# Library -> the only places that import it. The peers of benchmarks/ are fed with datasets.
OWNER = {
    "deepspeed": ("training/runtime/",),
    "peft": ("training/models/lora.py",),
    "label_studio_sdk": ("training/data/annotation/server.py",),
    "datasets": ("training/data/sources.py", "benchmarks/gate.py"),
}
# Where `--help` must stay fast: libraries refused. Where maths must stay pure: libraries allowed.
REFUSED = {"training.arguments": {"torch", "deepspeed"}}
ALLOWED = {"training.objectives": {"torch"}, "training.tensors": {"torch"}}


def unit_of(module: str) -> str:
    """The unit of LAYERS that a dotted module belongs to, or its top-level package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "training" else parts[0]


def imported(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted module) for each import anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from training import data` names its unit only among the imported names.
            names = [alias.name for alias in node.names] if base == "training" else []
            yield from ((node.lineno, f"{base}.{name}") for name in names)
            if not names:
                yield node.lineno, base
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rsplit(".", 1)[-1]
            name = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(name, ast.Constant):
                yield node.lineno, str(name.value)


def prints(tree: ast.Module) -> list[int]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]


def fault_of_import(path: str, module: str) -> str | None:
    """Why the file at `path` may not import `module`, or None."""
    unit = unit_of(path.removesuffix(".py").replace("/", "."))
    target, library = unit_of(module), module.split(".")[0]
    if target in LEVEL:
        if target == unit or LEVEL[target] < LEVEL[unit]:
            return None
        return f"{unit} may not import {target}: it is not in a lower layer"
    if library == "training" and module != "training":
        return f"{target} is in no layer; add it to LAYERS"
    if library == "tests":
        return f"{library} is not for import"
    if library in OWNER and not path.startswith(OWNER[library]):
        return f"{library} is imported only in {OWNER[library][0]}"
    outside = library not in sys.stdlib_module_names and library != "training"
    if library in REFUSED.get(unit, set()) or (
        outside and unit in ALLOWED and library not in ALLOWED[unit]
    ):
        return f"{unit} may not import {library}"
    return None


def faults_of_file(root: Path, file: Path) -> Iterator[str]:
    """Each breach of the rules in one file, as `path:line: what`."""
    path = file.relative_to(root).as_posix()
    source = file.read_text(encoding="utf-8")
    if file.name == "__init__.py" and source.strip():
        yield f"{path}:1: an __init__.py must be empty"
    if unit_of(path.removesuffix(".py").replace("/", ".")) not in LEVEL:
        if path != "training/__init__.py":
            yield f"{path}:1: is in no layer; add it to LAYERS"
        return
    tree = ast.parse(source, filename=path)
    for line, module in imported(tree, path.split("/")[:-1]):
        if fault := fault_of_import(path, module):
            yield f"{path}:{line}: {fault}"
    if path.startswith("training/"):
        yield from (f"{path}:{line}: print in training; use logging" for line in prints(tree))


def faults(root: Path) -> list[str]:
    """Each breach of the rules in the tree at `root`."""
    files = [file for top in ("training", *sorted(PROGRAMS)) for file in (root / top).rglob("*.py")]
    return [fault for file in sorted(files) for fault in faults_of_file(root, file)]


def plant(root: Path, path: str, source: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, encoding="utf-8")


def test_the_tree_keeps_the_import_rules():
    assert faults(ROOT) == []


def test_stage_folders_and_tests_hold_no_init_with_code():
    tops = [*PROGRAMS, "tests", "benchmarks"]
    files = [file for top in tops for file in (ROOT / top).rglob("__init__.py")]
    assert [str(file) for file in files if file.read_text(encoding="utf-8").strip()] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("step3_ppo/main.py", "from training.trainers.ppo.update import PPOTrainer\nprint(1)"),
        ("step1_sft/main.py", "import torch\nfrom training.arguments.sft import SFTArgs"),
        ("training/trainers/ppo/update.py", "from training.hybrid_engine.engine import Engine"),
        ("training/evaluation/report.py", "from training.data import records"),
        ("training/data/batches.py", "from training.data.records import Pair\nimport torch"),
        ("training/data/encode.py", "from .records import Pair\nfrom ..tensors import whiten"),
        ("training/data/sources.py", "def load():\n    import datasets"),
        ("training/runtime/engine.py", "import deepspeed.comm as dist"),
        ("training/objectives/ppo.py", "import math\nfrom torch import Tensor"),
        ("examples/movie_reviews/judge.py", "from examples.movie_reviews import prepare"),
        ("training/__init__.py", ""),
    ],
)
def test_imports_that_go_down_are_allowed(tmp_path, path, source):
    plant(tmp_path, path, source)
    assert faults(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("training/data/x.py", "import training.trainers.ppo.update", "training.trainers"),
        ("training/data/x.py", "from training.models.loading import f", "training.models"),
        ("training/data/x.py", "from training import runtime", "training.runtime"),
        ("training/data/x.py", "from ..models import loading", "training.models"),
        ("training/data/x.py", "from .. import models", "training.models"),
        ("training/data/x.py", "def f():\n    from training.models import g", "training.models"),
        ("training/data/x.py", "__import__('training.models.y')", "training.models"),
        ("training/evaluation/x.py", "import training.trainers.ppo.update", "training.trainers"),
        ("training/trainers/x.py", "from training.evaluation import y", "training.evaluation"),
        ("training/tensors.py", "from training.arguments import y", "training.arguments"),
        ("training/arguments/x.py", "from training.tensors import y", "training.tensors"),
        ("training/trainers/x.py", "import step3_ppo.main", "step3_ppo"),
        ("training/models/x.py", "from examples.movie_reviews import judge", "examples"),
        ("step3_ppo/main.py", "from step1_sft import main", "step1_sft"),
        ("step3_ppo/main.py", "from tests import conftest", "not for import"),
        ("step3_ppo/main.py", "import deepspeed", "only in training/runtime/"),
        ("training/models/x.py", "from deepspeed.zero import Init", "only in training/runtime/"),
        ("training/data/x.py", "import datasets", "only in training/data/sources.py"),
        ("training/models/x.py", "importlib.import_module('datasets')", "only in training/data"),
        ("training/arguments/x.py", "import torch", "may not import torch"),
        ("training/objectives/x.py", "import transformers", "may not import transformers"),
        ("training/models/x.py", "if True:\n    print(1)", "print in training"),
        ("training/models/__init__.py", "from json import loads", "must be empty"),
        ("training/utils.py", "", "in no layer"),
        ("training/models/x.py", "import training.helpers", "in no layer"),
    ],
)
def test_a_planted_breach_is_caught(tmp_path, path, source, expected):
    plant(tmp_path, path, source)
    found = faults(tmp_path)
    assert len(found) == 1, found
    assert found[0].startswith(f"{path}:")
    assert expected in found[0]
