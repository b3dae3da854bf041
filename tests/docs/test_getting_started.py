"""The commands of "Your own domain" run as written, on the page's rows, with fewer steps."""

import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, Block, read_blocks
from tests.docs.test_metrics import find_unexplained
from tests.stages.material import read_jsonl
from tests.stages.processes import environment

PAGE = DOCS / "getting_started.md"
# Appended to a command: the last of two equal flags counts.
FEWER = {
    "step1_sft/run.sh": "--max_steps 3 --batch_size 8 --max_eval_rows 8",
    "step2_reward/run.sh": "--max_steps 3 --max_eval_rows 8 --normalization_samples 8 "
    "--normalization_new_tokens 4",
    "step3_ppo/run.sh": "--max_steps 2 --rollout_batch_size 8 --minibatch_size 4 "
    "--max_new_tokens 8 --max_eval_rows 4",
    "step3_ppo/evaluate.py": "--max_prompts 8 --max_new_tokens 8",
}
METRIC_FILES = ("metrics.jsonl", "timing.jsonl")


def run_commands(blocks: list[Block], folder: Path, env: dict[str, str]) -> None:
    """Run the blocks' commands in a folder that looks like the repository."""
    for block in blocks:
        for command in block.commands:
            fewer = [flags for program, flags in FEWER.items() if program in command]
            line = " ".join([command, *fewer])
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{block}: {line}\n{done.stdout[-2000:]}{done.stderr}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the whole page has been done."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("step1_sft", "step2_reward", "step3_ppo", "examples"):
        (folder / name).symlink_to(ROOT / name)
    blocks = read_blocks(PAGE)
    for block in blocks:
        if block.mark.startswith("file: "):
            path = folder / block.mark.removeprefix("file: ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    env = environment(folder / "extensions", folder / "cache")
    run = [block for block in blocks if block.language == "bash" and not block.mark]
    run_commands(run, folder, env)
    return folder


@pytest.mark.slow
def test_the_page_ends_with_a_judged_model(folder):
    output = folder / "output" / "tea"
    assert (output / "evaluation" / "report.html").is_file()
    assert len(read_jsonl(output / "evaluation" / "before.jsonl")) == 8


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["step1_sft", "step2_reward", "step3_ppo"])
def test_the_glossary_explains_every_metric_that_a_stage_logs(folder, stage):
    output = folder / "output" / "tea" / stage
    logged = {name for file in METRIC_FILES for row in read_jsonl(output / file) for name in row}
    assert len(logged) > 5
    assert find_unexplained(logged - {"step", "time"}) == []
