"""`--help` answers at once, without the libraries that take seconds to import, and is complete."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from tests.stages.processes import ROOT
from training import arguments
from training.arguments.chat import ChatArgs
from training.arguments.collect import CollectArgs
from training.arguments.data_size_curve import DataSizeCurveArgs
from training.arguments.evaluate import EvaluateArgs
from training.arguments.parsing import group_fields, parse_args
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs

PROGRAMS = {
    "step1_sft/main.py": SFTArgs,
    "step2_reward/main.py": RewardArgs,
    "step2_reward/collect.py": CollectArgs,
    "step2_reward/data_size_curve.py": DataSizeCurveArgs,
    "step3_ppo/main.py": PPOArgs,
    "step3_ppo/evaluate.py": EvaluateArgs,
    "step3_ppo/chat.py": ChatArgs,
}
CPU_SECONDS = 3.0
DIALECT = re.compile(
    r"\b(anew|go(es)? on|stands?|lies?|is said|mends?|reckons?|left out|all the same)\b"
)
SLOW = ("torch", "deepspeed", "datasets", "peft", "sklearn", "matplotlib")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_fast_and_names_every_flag(program, tmp_path):
    command = [sys.executable, "-X", "importtime", str(ROOT / program), "--help"]
    errors = tmp_path / "imports"
    with errors.open("wb") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
        assert process.stdout is not None
        printed = process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors.read_text()[-2000:]
    assert usage.ru_utime + usage.ru_stime < CPU_SECONDS
    imported = {line.rsplit("|", 1)[-1].strip() for line in errors.read_text().splitlines()}
    assert "training.arguments.parsing" in imported
    assert imported.isdisjoint(SLOW)
    for field in fields(PROGRAMS[program]):
        assert f"--{field.name} " in printed
        assert field.metadata["help"].split()[0] in printed


@pytest.mark.parametrize("cls", PROGRAMS.values(), ids=lambda cls: cls.__name__)
def test_every_flag_has_one_line_of_help(cls):
    for field in fields(cls):
        text = field.metadata.get("help", "")
        assert text.endswith((".", ")")), field.name
        assert "\n" not in text
        assert 10 < len(text) <= 100, field.name


def all_flag_classes():
    """Every dataclass of flags in training/arguments."""
    found = set()
    for path in Path(arguments.__file__ or "").parent.glob("*.py"):
        module = importlib.import_module(f"training.arguments.{path.stem}")
        found |= {
            cls for cls in vars(module).values() if isinstance(cls, type) and is_dataclass(cls)
        }
    return sorted(found, key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", all_flag_classes(), ids=lambda cls: cls.__name__)
def test_every_flag_is_in_one_group_and_says_what_its_negative_does(cls):
    groups = group_fields(cls)
    assert "flags" not in groups
    grouped = [spec.name for specs in groups.values() for spec in specs]
    assert sorted(grouped) == sorted(spec.name for spec in fields(cls))
    for spec in fields(cls):
        assert bool(spec.metadata["negative"]) == (spec.default is True), spec.name


@pytest.mark.parametrize("cls", all_flag_classes(), ids=lambda cls: cls.__name__)
def test_help_is_in_plain_english(cls):
    texts = [cls.__doc__, *(spec.metadata["help"] for spec in fields(cls))]
    texts += [spec.metadata["negative"] for spec in fields(cls)]
    assert [text for text in texts if DIALECT.search(text)] == []


def test_the_most_needed_flags_come_first():
    groups = group_fields(SFTArgs)
    assert list(groups)[:3] == ["model and output", "data", "training"]
    assert [specs[0].name for specs in groups.values()][:2] == ["model_name_or_path", "data_path"]


def test_help_prints_groups_and_negative_flags(capsys):
    with pytest.raises(SystemExit):
        parse_args(RewardArgs, ["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("usage: ")
    for title in group_fields(RewardArgs):
        assert f" {title}: --" in printed
    assert "--no_decontaminate Keep training rows whose prompt is held out." in printed
    assert "--data-path" not in printed


def test_help_through_run_sh_needs_no_launcher(user_env, tmp_path):
    # A `deepspeed` that would not do: what run.sh may not call for this.
    (tmp_path / "deepspeed").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "deepspeed").chmod(0o755)
    env = user_env | {"PATH": f"{tmp_path}:{user_env['PATH']}"}
    script = ROOT / "step3_ppo" / "run.sh"
    done = subprocess.run(["bash", script, "--help"], env=env, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--kl_coef" in done.stdout


def test_no_program_is_left_out():
    found = {str(path.relative_to(ROOT)) for path in Path(ROOT).glob("step*/*.py")}
    assert found == set(PROGRAMS)
