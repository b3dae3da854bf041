"""The project's papers and scripts agree with each other."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_OURS = {".git", ".venv", "output", "site"}
SHELL_SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.sh", "*.sbatch", ".ci/run")
    for path in ROOT.rglob(pattern)
    if not NOT_OURS & set(path.relative_to(ROOT).parts)
)
# Import name -> distribution, where they differ or where a dependency brings it.
DISTRIBUTION = {
    "sklearn": "scikit-learn",
    "tokenizers": "transformers",
    "huggingface_hub": "transformers",
    "jinja2": "torch",
    "pyarrow": "datasets",
    "pandas": "datasets",
}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def package(monkeypatch):
    """What setup.py passes to setuptools."""
    passed: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", passed.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return passed


def dependencies(package) -> dict[str, str]:
    """Normalised name -> requirement, extras included."""
    extras = package["extras_require"].values()
    every = [*package["install_requires"], *(line for extra in extras for line in extra)]
    return {normalised(re.split(r"[<>=!~\[; ]", line)[0]): line for line in every}


def constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_changelog_has_unreleased_on_top_and_then_the_version_of_setup(package):
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", text, flags=re.MULTILINE)
    assert headings[:2] == ["Unreleased", package["version"]]


def test_constraints_pin_each_direct_dependency_and_nothing_else(package):
    pinned = {normalised(line.split("==")[0]) for line in constraints()}
    assert pinned == set(dependencies(package))


def test_every_dependency_has_a_lower_bound_that_its_pins_meet(package):
    version: dict[str, list[list[int]]] = {}
    for line in constraints():
        name, pin = line.split(";")[0].split("==")
        version.setdefault(normalised(name), []).append(numbers(pin))
    for name, requirement in dependencies(package).items():
        wanted, _, marker = requirement.partition("; ")
        assert re.fullmatch(r"[\w.-]+>=[\d.]+", wanted), requirement
        assert marker in ("", 'python_version >= "3.11"'), requirement
        assert min(version[name]) >= numbers(wanted.split(">=")[1]), requirement


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_each_constraint_applies_to_every_python_or_has_a_pair_for_the_others():
    markers: dict[str, list[str]] = {}
    for line in constraints():
        name, _, marker = line.partition("; ")
        markers.setdefault(normalised(name.split("==")[0]), []).append(marker)
    allowed = [[""], ['python_version >= "3.11"', 'python_version < "3.11"']]
    assert {name: found for name, found in markers.items() if found not in allowed} == {}


def test_every_library_that_the_code_imports_is_declared(package):
    tops = ["training", "step1_sft", "step2_reward", "step3_ppo", "examples", "benchmarks", "tests"]
    ours = {*tops, "setuptools", *sys.stdlib_module_names}
    declared = set(dependencies(package))
    undeclared = {
        f"{file.relative_to(ROOT)}: {name}"
        for top in tops
        for file in (ROOT / top).rglob("*.py")
        for name in top_level_imports(file) - ours
        if normalised(DISTRIBUTION.get(name, name)) not in declared
        and not file.with_name(f"{name}.py").exists()
    }
    assert undeclared == set()


def top_level_imports(file: Path) -> set[str]:
    """The packages that a file needs; what it does without (`except ImportError`) is left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    optional = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and "ImportError" in map(handled, node.handlers)
        for outer in node.body
        for inner in ast.walk(outer)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in optional:
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and id(node) not in optional:
            found.add(str(node.module).split(".")[0])
    return found


def handled(handler: ast.ExceptHandler) -> str:
    return ast.unparse(handler.type) if handler.type else ""


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_each_shell_script_parses(script):
    done = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_each_shell_script_stops_at_the_first_error(script):
    assert "\nset -euo pipefail\n" in (ROOT / script).read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
def test_shellcheck_finds_nothing():
    done = subprocess.run(
        ["shellcheck", "-x", *SHELL_SCRIPTS], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("stage", ["step1_sft", "step2_reward", "step3_ppo"])
def test_the_users_flags_come_last_in_a_stage_launcher(stage):
    assert (ROOT / stage / "main.py").is_file()
    text = (ROOT / stage / "run.sh").read_text(encoding="utf-8")
    assert text.rstrip().endswith('"$@"')


def test_continuous_integration_runs_exactly_what_a_person_runs():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == [
        'if bash .ci/install_packages.sh; then export REQUIRED_TESTS="slurm network"; fi',
        "bash run_tests.sh --all",
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("good.py", b"x = 1\n", ""),
        ("picture.png", b"\0 \n\n", ""),
        ("a.py", b"x = 1", "no newline at the end"),
        ("a.md", b"text\n\n", "empty lines at the end"),
        ("a.sh", b"one\ntwo \n", "space at the end of line 2"),
        ("a.json", b'{"a": 1,}\n', "not JSON"),
        ("big.bin", b"\0" * 500_001, "500001 bytes"),
    ],
)
def test_the_check_of_files_finds_each_fault(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    command = [sys.executable, ROOT / ".ci" / "check_files.py", tmp_path / name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == bool(expected)
    assert expected in done.stdout
    assert bool(done.stdout) == bool(expected)
