"""Each benchmark really runs, in small; its figures are not judged here."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.arguments import BenchmarkArgs
from benchmarks.paired import compare
from training.paths import REPOSITORY

SMALL = "--size tiny --dtype fp32 --batch 2 --pairs 1"
RUNS = {
    "rollout": "--prompt 4 --answer 4 --peer transformers",
    "ppo": "--prompt 4 --answer 4",
    "reward": "--prompt 4 --shortest 6 --answer 9",
    "sft": "--shortest 6 --answer 9",
}
KEYS = {"ours", "unit", "roofline_share", "peak_memory_mb", "versions", "processor"}


def run(module: str, flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *flags.split()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    ["rollout", *(pytest.param(m, marks=pytest.mark.full) for m in RUNS if m != "rollout")],
)
def test_a_benchmark_writes_what_it_measured(module, tmp_path):
    file = tmp_path / "result.json"
    done = run(module, f"{SMALL} {RUNS[module]} --json {file}")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(file.read_text())
    assert result.keys() >= KEYS
    assert result["ours"]["median_s"] > 0
    assert 0 < result["roofline_share"] < 1
    assert result["peak_memory_mb"]["ours"] > 100
    if "--peer" in RUNS[module]:
        assert result["ratio"] > 0
        assert result["peer"]["amount"] == result["ours"]["amount"] == 2 * 4


@pytest.mark.slow
@pytest.mark.full
def test_ranks_share_a_rollout_under_zero_3_as_under_zero_0(tmp_path):
    file = tmp_path / "result.json"
    done = run("zero", f"{SMALL} --prompt 4 --answer 4 --json {file}")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(file.read_text())
    assert result["ours"]["amount"] == result["peer"]["amount"] == 2 * 4


@pytest.mark.slow
def test_rankings_have_the_same_comparisons_on_both_sides_and_a_third_of_the_tokens(tmp_path):
    file = tmp_path / "result.json"
    done = run("rankings", f"{SMALL} --prompt 4 --shortest 6 --answer 9 --json {file}")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(file.read_text())
    assert result["ours"]["amount"] == result["peer"]["amount"] == 2 * 2 * 6
    # 4 responses once, or 12 sides of 6 pairs: each response is in three of them.
    assert result["sequence_tokens"]["ratio"] == 3.0


@pytest.mark.parametrize(
    ("module", "flags", "named"),
    [
        ("rankings", "--responses 1", "--responses"),
        ("rankings", "--peer trl", "--peer"),
        ("rollout", "--peer trl", "--peer"),
        ("ppo", "--peer transformers", "--peer"),
        ("ppo", "--batch 16 --peer_micro_batch 5", "--peer_micro_batch"),
        ("reward", "--prompt 40", "--prompt"),
        ("sft", "--prompt 3 --peer trl", "--prompt"),
        ("zero", "--ranks 3", "--batch"),
        ("sft", "--pairs 0", "--pairs"),
    ],
)
def test_a_flag_that_makes_no_sense_is_named_in_one_line(module, flags, named):
    done = run(module, flags)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert named in last
    assert "Traceback" not in done.stderr


def fixed_time(seconds: float) -> Any:
    import time

    def side(args: BenchmarkArgs) -> Any:
        def run() -> float:
            time.sleep(seconds)
            return 2.0

        return run

    return side


def slow_side(args: BenchmarkArgs) -> Any:
    return fixed_time(0.3)(args)


def fast_side(args: BenchmarkArgs) -> Any:
    return fixed_time(0.1)(args)


def failing_side(args: BenchmarkArgs) -> Any:
    raise RuntimeError("this side fails")


@pytest.mark.slow
def test_a_ratio_is_the_peers_time_over_ours(capsys):
    result = compare(BenchmarkArgs(pairs=3), ours=fast_side, peer=slow_side, unit="things")
    assert result["ratio"] == pytest.approx(3.0, rel=0.3)
    assert len(result["ours"]["all_s"]) == 3
    assert result["ours"]["per_s"] == pytest.approx(20.0, rel=0.3)


@pytest.mark.slow
def test_a_side_that_fails_ends_the_benchmark():
    with pytest.raises(SystemExit, match="one side has failed"):
        compare(BenchmarkArgs(pairs=1), ours=fast_side, peer=failing_side, unit="things")
