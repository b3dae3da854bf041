"""Each command of the docs exists with its flags; a test runs its program, or a mark says why not.

test_getting_started.py runs those of "Your own domain" as they are written.
"""

import importlib.util
import io
import re
import shlex
from contextlib import redirect_stderr
from dataclasses import dataclass

import pytest

from examples.quickstart import QuickstartArgs
from tests.docs.pages import PAGES, ROOT, read_blocks, read_commands
from training.arguments.annotation import AnnotationArgs, PullArgs, PushArgs
from training.arguments.chat import ChatArgs
from training.arguments.collect import CollectArgs
from training.arguments.data_size_curve import DataSizeCurveArgs
from training.arguments.evaluate import EvaluateArgs
from training.arguments.inspection import InspectArgs
from training.arguments.parsing import _OneLineParser
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.self_check import SelfCheckArgs
from training.arguments.sft import SFTArgs

NOT_RUN, FILE = "not run: ", "file: "


@dataclass(frozen=True)
class Program:
    """A program of the docs: its flags, if it has ours, and the test that runs it, if one does."""

    flags: type | None
    test: str


LAUNCH, TOOLS = "tests/stages/test_launch.py", "tests/stages/test_tools.py"
STAGES = {"step1_sft": SFTArgs, "step2_reward": RewardArgs, "step3_ppo": PPOArgs}
CURVE = "step2_reward/data_size_curve.py"
PROGRAMS = {
    **{f"{stage}/run.sh": Program(flags, LAUNCH) for stage, flags in STAGES.items()},
    **{f"{stage}/main.py": Program(flags, LAUNCH) for stage, flags in STAGES.items()},
    "step2_reward/collect.sh": Program(CollectArgs, "tests/label_studio/test_round_trip.py"),
    CURVE: Program(DataSizeCurveArgs, "tests/stages/test_data_size_curve.py"),
    "step3_ppo/evaluate.py": Program(EvaluateArgs, TOOLS),
    "step3_ppo/chat.py": Program(ChatArgs, TOOLS),
    "training.data.inspect": Program(InspectArgs, "tests/data/test_inspect.py"),
    "training.data.annotation": Program(AnnotationArgs, "tests/label_studio/test_round_trip.py"),
    "training.data.annotation push": Program(PushArgs, "tests/label_studio/test_round_trip.py"),
    "training.data.annotation pull": Program(PullArgs, "tests/label_studio/test_round_trip.py"),
    "training.self_check": Program(SelfCheckArgs, "tests/preflight/test_self_check.py"),
    "quickstart.sh": Program(QuickstartArgs, ""),
    "install.sh": Program(None, "tests/test_install.py"),
    "run_tests.sh": Program(None, ""),
    "tea/make_data.py": Program(None, "tests/docs/test_getting_started.py"),
}
# Commands of a shell and of others' programs, which need no test of ours.
OTHERS = {".", "cd", "export", "git", "make", "mkdir", "pip", "pre-commit", "srun", "tensorboard"}
VARIABLE = re.compile(r"[A-Z_]+=\S*")
SLURM = {"slurm/submit.sh", "slurm/pipeline.sh"}


def find_program(words: list[str]) -> tuple[str, list[str]]:
    """The program that a command starts, as a key of PROGRAMS if it has one, and its arguments."""
    while VARIABLE.fullmatch(words[0]):
        words = words[1:]
    starter, rest = words[0], words[1:]
    if starter in ("deepspeed", "torchrun"):
        rest = rest[next(i for i, word in enumerate(rest) if word.endswith(".py")) :]
    elif starter == "python" and rest[0] == "-m":
        rest = rest[1:]
    elif starter not in ("bash", "python"):
        return starter, rest
    if rest[0] == "training.data.annotation" and rest[1] in ("push", "pull"):
        rest = [" ".join(rest[:2]), *rest[2:]]
    return rest[0], rest[1:]


def find_flag_faults(flags: type, words: list[str]) -> list[str]:
    """Words that are not flags of the dataclass, or values that its flags do not take."""
    names = [word for word in words if word.startswith("--")]
    bare = words[: words.index(names[0])] if names else words
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            parser = _OneLineParser(flags, allow_abbrev=False)  # type: ignore[arg-type]
            _, unknown = parser.parse_known_args(words[len(bare) :])
    except SystemExit:
        return [printed.getvalue()]
    return unknown


def find_faults(command: str) -> list[str]:
    """List what is wrong with a command, in words."""
    program, words = find_program(shlex.split(command, comments=True))
    if program in OTHERS:
        return []
    if program in SLURM:
        return find_slurm_faults(program, words)
    if program == CURVE:  # behind the --, flags of stage 2
        split = words.index("--")
        stage = find_flag_faults(RewardArgs, words[split + 1 :])
        return find_flag_faults(DataSizeCurveArgs, words[:split]) + stage
    if program not in PROGRAMS:
        return [f"{program} is in no table of this test"]
    flags = PROGRAMS[program].flags
    return [] if flags is None else find_flag_faults(flags, words)


def find_slurm_faults(script: str, words: list[str]) -> list[str]:
    """Flags behind each -- are those of the stage that is named there or before."""
    if not (ROOT / script).is_file():
        return [f"no {script}"]
    stage, *blocks = " ".join(words).split(" -- ")
    faults = []
    for block in blocks:
        first, *rest = block.split()
        named = first if first in STAGES else stage.split()[0]
        flags = STAGES.get(named, SFTArgs)  # of all stages: of any
        given = rest if first in STAGES else [first, *rest]
        faults += find_flag_faults(flags, [word.replace("%a", "0") for word in given])
    return faults


COMMANDS = read_commands()


@pytest.mark.parametrize(
    ("block", "command"), COMMANDS, ids=[f"{block} {command[:40]}" for block, command in COMMANDS]
)
def test_a_command_exists_with_its_flags(block, command):
    assert find_faults(command) == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_exists_and_so_does_the_test_that_runs_it(name):
    program, test = name.split()[0], PROGRAMS[name].test
    is_ours = (ROOT / program).is_file() or program.startswith("tea/")
    assert is_ours or importlib.util.find_spec(program) is not None
    assert not test or (ROOT / test).is_file()


def test_commands_without_a_mark_are_run_by_a_test():
    is_run = {name for name, program in PROGRAMS.items() if program.test} | {".", "mkdir"}
    unmarked = [
        f"{block}: {command}"
        for block, command in COMMANDS
        if not block.mark.startswith(NOT_RUN)
        and find_program(shlex.split(command, comments=True))[0] not in is_run
    ]
    assert unmarked == []


def test_a_mark_above_a_block_has_a_reason_or_names_a_file():
    marks = {block.mark for page in PAGES for block in read_blocks(page) if block.mark}
    assert [mark for mark in marks if not re.fullmatch(f"({NOT_RUN}|{FILE})\\S.+", mark)] == []


def test_no_command_is_in_an_indented_block():
    found = [
        f"{page.name}: {line.strip()}"
        for page in PAGES
        for line in re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL).splitlines()
        if re.match(
            r" {4}(bash|python|make|pip|deepspeed|torchrun|export|[A-Z_]+=\S+ bash)\b", line
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("bash step1_sft/run.sh --data_paht x", "--data_paht"),
        ("bash step1_sft/run.sh --objective lmm", "invalid choice"),
        ("bash step1_sft/runn.sh", "no table"),
        ("NUM_GPUS=2 deepspeed step3_ppo/main.py --kl_coeff 1", "--kl_coeff"),
        ("bash slurm/submit.sh step3_ppo --nodes 2 -- --kl_coeff 1", "--kl_coeff"),
        ("bash slurm/pipeline.sh -- --zero_stage 3 -- step2_reward --kl_coef 1", "--kl_coef"),
        ("python -m training.data.inspect x.jsonl --kl_coef 1", "--kl_coef"),
        (f"python {CURVE} --shares 0.1 -- --kl_coef 1", "--kl_coef"),
    ],
)
def test_a_planted_mistake_is_caught(command, expected):
    assert expected in " ".join(find_faults(command))
