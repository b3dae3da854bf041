"""The data-size curve: stage 2, launched on nested shares of the prompts."""

import json
import signal
import sys

import pytest

from tests.stages.material import read_jsonl, write_jsonl
from tests.stages.processes import ROOT, started, wait_until
from training.arguments.data_size_curve import DataSizeCurveArgs
from training.arguments.parsing import USER_MISTAKE
from training.arguments.reward import RewardArgs
from training.evaluation.reward_model.data_size_curve import write_rows
from training.launching.stopping import STOPPED
from training.models.tokenizers import load_tokenizer

PROGRAM = ROOT / "step2_reward" / "data_size_curve.py"
STAGE = "--max_steps 3 --eval_every 2 --normalization_samples 0 --dtype fp32 --zero_stage 0"


@pytest.fixture
def write_shares(material, tmp_path):
    """Write rows of the shares 0.25, 0.5 and 1. Returns the rows of each, and the held-out rows."""

    def write(**flags):
        args = DataSizeCurveArgs(shares=[1.0, 0.25, 0.5], output_dir=str(tmp_path / "curve"))
        stage = RewardArgs(model_name_or_path=str(material.base), data_cache=False, **flags)
        files = write_rows(args, stage, load_tokenizer(stage.model_name_or_path, flag=""))
        (held_out,) = {file for _, file in files.values()}
        rows = {share: read_jsonl(file) for share, (file, _) in files.items()}
        return rows, read_jsonl(held_out)

    return write


def test_shares_are_nested_and_keep_the_order_of_the_rows(write_shares, material):
    rows, held_out = write_shares(data_path=[str(material.data)])
    assert rows[1.0] == read_jsonl(material.file("reward"))
    assert held_out == read_jsonl(material.file("reward", "dev"))
    assert [len(rows[share]) for share in (0.25, 0.5, 1.0)] == [7, 14, 28]
    for smaller, larger in ((0.25, 0.5), (0.5, 1.0)):
        assert rows[smaller] == [row for row in rows[larger] if row in rows[smaller]]


def test_rows_held_out_of_the_data_are_in_no_share(write_shares, material):
    train = read_jsonl(material.file("reward"))
    rows, held_out = write_shares(data_path=[str(material.file("reward"))], eval_fraction=0.3)
    assert held_out
    assert sorted(map(str, rows[1.0] + held_out)) == sorted(map(str, train))


def test_weighted_rows_are_written_as_often_as_they_are_trained_on(write_shares, material):
    file = str(material.file("reward"))
    dev = [str(material.file("reward", "dev"))]
    rows, held_out = write_shares(data_path=[file], data_weights=[2.0], eval_data_path=dev)
    assert rows[1.0] == 2 * read_jsonl(material.file("reward"))
    assert held_out == read_jsonl(material.file("reward", "dev"))


@pytest.mark.slow
def test_the_curve_has_the_accuracies_of_stage_2_on_each_share(material, user_env, tmp_path):
    flags = ["--model_name_or_path", material.base, *STAGE.split()]
    flags += ["--data_path", material.file("reward"), "--eval_fraction", "0.3"]
    own = ["--shares", "1", "0.5", "--output_dir", tmp_path / "curve", "--"]
    with started([sys.executable, PROGRAM, *own, *flags], tmp_path, user_env) as program:
        assert program.wait() == 0, program.errors.read_text()
        assert program.all_gone_within(5)
        output = program.output.read_text()
    alone = ["bash", ROOT / "step2_reward" / "run.sh", "--output_dir", tmp_path / "alone", *flags]
    with started(alone, tmp_path, user_env) as program:
        assert program.wait() == 0
    folder = tmp_path / "curve"
    metrics = {name: folder / name / "metrics.jsonl" for name in ("0.5", "1")}
    assert metrics["1"].read_bytes() == (tmp_path / "alone" / "metrics.jsonl").read_bytes()
    steps = [row["step"] for row in read_jsonl(metrics["0.5"]) if "loss/train" in row]
    assert steps == [1, 2]  # as many passes: half of three steps, rounded up
    curve = json.loads((folder / "data_size_curve.json").read_text())
    for point, share in zip(curve, (0.5, 1.0), strict=True):
        report = json.loads((folder / f"{share:g}" / "evaluation.json").read_text())
        assert point == {"share": share, **report["all"]}
    assert curve[0]["pairs"] == curve[1]["pairs"] > 0
    assert "  50% of the prompts: " in output
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<h1>Would more comparisons help?</h1>") == 1


@pytest.mark.slow
def test_a_signal_stops_and_saves_the_current_run(material, user_env, tmp_path):
    flags = ["--model_name_or_path", material.base, *STAGE.split(), "--max_steps", "100000"]
    words = [sys.executable, PROGRAM, "--output_dir", tmp_path / "curve", "--", *flags]
    metrics = tmp_path / "curve" / "0.1" / "metrics.jsonl"
    with started(words, tmp_path, user_env) as program:
        assert wait_until(lambda: metrics.is_file() and metrics.stat().st_size > 0, 200)
        program.process.send_signal(signal.SIGTERM)
        assert program.wait() == STOPPED, program.errors.read_text()
        assert program.all_gone_within(5)
    assert not (tmp_path / "curve" / "0.3").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--shares 0.3 1.5", ["--shares", "at most 1", "0.3 1.5"]),
        ("--shares 0.3 0.3", ["--shares"]),
        ("--shares 0.5 -- --output_dir x", ["--output_dir", "after the --"]),
        ("--shares 0.5 -- --learning_rat 1", ["did you mean --learning_rate"]),
        ("-- --data_path alone.jsonl --model_name_or_path {base}", ["nothing is held out"]),
    ],
)
def test_a_mistake_is_one_line(material, user_env, tmp_path, words, expected):
    write_jsonl(tmp_path / "alone.jsonl", [{"prompt": "a", "chosen": " a fox", "rejected": " a"}])
    flags = words.format(base=material.base).split()
    with started([sys.executable, PROGRAM, *flags], tmp_path, user_env, tmp_path) as program:
        assert program.wait() == USER_MISTAKE
        (line,) = [x for x in program.errors.read_text().splitlines() if "error: " in x]
    assert all(part in line for part in expected), line
    assert not (tmp_path / "output").exists()
