"""evaluate.py and chat.py as their users start them."""

import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.evaluation.material import read_jsonl, write_material
from training.arguments.chat import ChatArgs
from training.evaluation.conversation import Conversation

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("evaluate", "chat")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_material(tmp_path_factory.mktemp("made"))


def command(tool, *flags):
    return [sys.executable, str(ROOT / "step3_ppo" / f"{tool}.py"), *map(str, flags)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(tool, *flags, told=""):
    return subprocess.run(
        command(tool, *flags),
        input=told,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(),
        timeout=120,
    )


@pytest.fixture
def start():
    """Starts chat.py on given streams; whatever still runs at the end of the test is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags, stdin, stdout):
        process = subprocess.Popen(
            command("chat", *flags),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={**environment(), "TERM": "dumb"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("tool", TOOLS)
def test_help_comes_at_once_and_explains_every_flag(tool):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", *command(tool, "--help")[1:]],
        capture_output=True,
        text=True,
        env={**environment(), "COLUMNS": "200"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0
    assert after.ru_utime - before.ru_utime < 3.0
    loaded = {line.split("|")[-1].strip() for line in shown.stderr.splitlines()}
    assert not loaded & {"torch", "deepspeed", "transformers.modeling_utils"}
    options = shown.stdout.partition("options:")[2]
    flags = re.findall(r"^  (--\S+)(.*(?:\n {10,}.*)*)", options, flags=re.MULTILINE)
    assert len(flags) > 8
    assert [name for name, text in flags if not re.search(r"\w+ \w+ \w+", text)] == []


@pytest.mark.slow
def test_an_evaluation_ends_with_a_table_and_its_files(made, tmp_path):
    flags = {
        "before": made / "before",
        "after": made / "after",
        "reward_model_name_or_path": made / "reward",
        "comparisons_path": made / "comparisons.jsonl",
        "judge": made / "judge.py",
        "data_path": made / "prompts.jsonl",
        "output_dir": tmp_path / "out",
        "group_by": "place",
        "labels": "old new",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", *str(value).split())]
    words += ["--best_of", "2", "4", "--max_new_tokens", "12", "--max_prompt_length", "36"]
    ended = run("evaluate", *words)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    head = ended.stdout.splitlines()[0].split()
    assert head == ["old", "new", "best", "of", "2", "best", "of", "4"]
    assert "judge, win rate over old" in ended.stdout
    assert "reward model on held-out comparisons" in ended.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["prompts"] == 24
    assert summary["groups"] == 5
    assert summary["reward_model"]["pairs"] == 36
    for side in ("before", "after", "best_of_2", "best_of_4"):
        assert len(read_jsonl(tmp_path / "out" / f"{side}.jsonl")) == 24
    assert "<html" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_chat_answers_each_line_and_continues_after_one_that_is_too_long(made):
    flags = ("--model", made / "after", "--max_new_tokens", 8, "--top_k", 1, "--dtype", "fp32")
    ended = run("chat", *flags, told=f"of 3:\n\n{'x' * 70}\nof\\n4:\nof 3:")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines() == [
        "chat.py: that prompt has 70 tokens, and the model has 64 positions for prompt and "
        "response; shorten it"
    ]
    args = ChatArgs(model=str(made / "after"), max_new_tokens=8, top_k=1, dtype="fp32")
    talk = Conversation(args, torch.device("cpu"))
    replies = [talk.reply(line, lambda _: None) for line in ("of 3:", "of\n4:", "of 3:")]
    assert all(replies)
    assert ended.stdout == "".join(f"{reply}\n" for reply in replies)


@pytest.mark.slow
def test_a_reward_model_is_not_talked_to(made):
    ended = run("chat", "--model", made / "reward")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("chat.py: error: --model: ")
    assert "holds a reward model" in line
    assert ended.stdout == ""


@pytest.mark.parametrize("tool", TOOLS)
def test_an_unknown_flag_is_one_line(tool):
    ended = run(tool, "--no_such_flag", "3")
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_and_a_reader_that_has_gone_end_chat_without_a_traceback(made, start):
    flags = ("--model", made / "after", "--max_new_tokens", 4)
    started = [start(*flags, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in started:
        process.stdin.write(b"of 3:\n")
        process.stdin.flush()
        process.stdout.readline()  # the model is loaded and answers
    interrupted, unread = started
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=60)
    assert (errors, interrupted.returncode) == (b"", 130)
    unread.stdout.close()
    unread.stdout = None
    _, errors = unread.communicate(b"of 4:\n" * 5, timeout=60)
    assert (errors, unread.returncode) == (b"", 1)


@pytest.mark.slow
def test_chat_in_a_terminal_shows_a_prompt_and_ends_with_ctrl_d(made, start):
    ours, theirs = pty.openpty()
    flags = ("--model", made / "after", "--max_new_tokens", 55)
    process = start(*flags, stdin=theirs, stdout=theirs)
    os.close(theirs)

    def read_until(end: bytes) -> bytes:
        seen = b""
        while not seen.endswith(end):
            assert select.select([ours], [], [], 60)[0], f"no more than {seen!r}"
            seen += os.read(ours, 1000)
        return seen

    assert b"Ctrl-D ends" in read_until(b"> ")
    os.write(ours, b"of 3:\n")
    answer = read_until(b"\n> ")
    # Random bytes: their control characters are not for the terminal to obey.
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", answer)
    os.write(ours, b"\x04")
    _, errors = process.communicate(timeout=60)
    os.close(ours)
    assert (errors, process.returncode) == (b"", 0)
