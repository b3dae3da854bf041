"""The shared installation step, with a pip that only writes down what it was asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("bash", "cat", "cksum", "dirname", "grep", "sed")

# Like a fresh environment's Python: -S leaves installed packages out, torch among them.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -m ]; then
    echo "${*:2}" >>"$PIP_LOG"
    case "$*" in
        *" torch=="*) mkdir -p "$PYTHONPATH/torch-2.13.0.dist-info" &&
            printf 'Metadata-Version: 2.1\\nName: torch\\nVersion: 2.13.0\\n' \\
                >"$PYTHONPATH/torch-2.13.0.dist-info/METADATA" ;;
    esac
    if [ "$3" = install ]; then exit "${PIP_STATUS:-0}"; fi
    exit 0
fi
exec REAL -S "$@"
"""


class Clone:
    """A copy of the tree's installation files beside a made-up environment."""

    def __init__(self, folder: Path) -> None:
        self.root, self.prefix = folder / "a clone", folder / "env"
        self.log, self.site = folder / "pip.log", folder / "site"
        self.root.mkdir()
        self.site.mkdir()
        for name in ("install.sh", "setup.py", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        self.put_python(self.prefix / "bin" / "python", PYTHON.replace("REAL", sys.executable))

    def put_python(self, path: Path, source: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        path.chmod(0o755)

    def install(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "VIRTUAL_ENV": str(self.prefix),
            "PIP_LOG": str(self.log),
            "PYTHONPATH": str(self.site),
        }
        return subprocess.run(
            ["bash", self.root / "install.sh"],
            env={k: v for k, v in {**environment, **variables}.items() if v},
            capture_output=True,
            text=True,
        )

    def asked(self) -> list[str]:
        """The pip commands that install something since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if line.startswith("pip install")]


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def test_torch_comes_first_and_alone_then_the_package_under_constraints(clone):
    assert clone.install().returncode == 0
    first, second = clone.asked()
    assert first == "pip install torch==2.13.0"
    assert second.startswith("pip install -e .[dev] -c ")


def test_a_second_call_installs_nothing(clone):
    clone.install()
    clone.asked()
    done = clone.install()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert clone.asked() == []


@pytest.mark.parametrize("changed", ["setup.py", "constraints.txt"])
def test_a_changed_dependency_is_installed_by_the_next_call(clone, changed):
    clone.install()
    clone.asked()
    with (clone.root / changed).open("a") as file:
        file.write("\n# changed\n")
    clone.install()
    assert len(clone.asked()) == 1  # torch is there already


def test_a_torch_that_is_already_there_is_kept(clone):
    info = clone.site / "torch-2.14.1+cu130.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.14.1+cu130\n")
    clone.install()
    (asked,) = clone.asked()
    lines = Path(asked.split(" -c ")[1]).read_text().splitlines()
    assert [line for line in lines if line.startswith("torch==")] == ["torch==2.14.1+cu130"]


def test_a_failed_installation_is_tried_again(clone):
    failed = clone.install(PIP_STATUS="1")
    assert failed.returncode == 2
    assert "package index" in failed.stderr
    clone.asked()
    clone.install()
    assert clone.asked() != []


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_is_used_and_no_venv_is_made(clone, variable):
    clone.install(**{"VIRTUAL_ENV": "", variable: str(clone.prefix)})
    assert clone.asked() != []
    assert not (clone.root / ".venv").exists()


def test_a_script_that_sources_it_is_in_the_environment(clone):
    script = clone.root / "run.sh"
    script.write_text("set -euo pipefail\n. ./install.sh\ncommand -v python\n")
    (clone.root / "install.sh").write_text((ROOT / "install.sh").read_text())
    done = subprocess.run(
        ["bash", "run.sh"],
        cwd=clone.root,
        env={
            "PATH": os.environ["PATH"],
            "VIRTUAL_ENV": str(clone.prefix),
            "PIP_LOG": str(clone.log),
            "PYTHONPATH": str(clone.site),
        },
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == str(clone.prefix / "bin" / "python")


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        (None, "needs Python >= 3.10"),
        ("exit 1", "needs Python >= 3.10"),  # older: the version check says no
        ('case "$*" in *venv*) exit 1 ;; esac', "lacks the venv module"),
    ],
)
def test_a_machine_that_cannot_make_an_environment_is_told_so_in_one_line(clone, python, expected):
    tools = clone.root / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool))
    if python is not None:
        clone.put_python(tools / "python3", f"#!{shutil.which('bash')}\n{python}\n")
    done = clone.install(VIRTUAL_ENV="", PATH=str(tools))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr
    assert not (clone.root / ".venv").exists()


def test_python_names_the_interpreter_of_a_new_environment(clone):
    done = clone.install(VIRTUAL_ENV="", PYTHON="/nowhere/python3")
    assert done.returncode == 2
    assert "PYTHON=/nowhere/python3" in done.stderr
