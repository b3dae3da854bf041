"""The memory estimate: worked by hand, and beside what ranks really take."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from training.estimates import memory as memory
from training.estimates.memory import Estimate
from training.estimates.shapes import ModelSize, Setting, Work, gpt2_size

ROOT = Path(__file__).resolve().parents[2]
# 1000 parameters, 600 of them in matrices.
MODEL = ModelSize(2, 10, 40, 2, 10, 30, 1000, 600, 1000)
PLAIN = Setting(zero_stage=0, ranks=1, itemsize=4, whole_blocks=True)


def trained(model: ModelSize = MODEL, **changes) -> dict[str, float]:
    estimate = Estimate()
    memory.add_trained(estimate, model, replace(PLAIN, **changes))
    return estimate.stays


@pytest.mark.parametrize(
    ("stage", "ranks", "weights", "gradients", "optimizer"),
    [
        (0, 1, 4000, 4000, 8000),
        (0, 4, 4000, 4000, 8000),
        (1, 4, 4000, 4000, 3000),  # a quarter of two moments and of the stepped copy
        (2, 1, 4000, 4000, 12000),
        (2, 4, 4000, 1000, 3000),
        (3, 4, 1000, 1000, 2000),
    ],
)
def test_what_stays_by_stage(stage, ranks, weights, gradients, optimizer):
    found = trained(zero_stage=stage, ranks=ranks, bucket=0)
    assert (found["weights"], found["gradients"], found["optimizer"]) == (
        weights,
        gradients,
        optimizer,
    )


def test_gpt2_sizes_are_those_of_the_published_models():
    published = {
        (12, 768, 12): 124_439_808,
        (24, 1024, 16): 354_823_168,
        (36, 1280, 20): 774_030_080,
        (48, 1600, 25): 1_557_611_200,
    }
    for shape, count in published.items():
        assert gpt2_size(*shape, 50257, 1024).parameters == count


def test_a_bucket_is_no_larger_than_the_gradients():
    assert trained(zero_stage=3, ranks=2)["bucket of gradients"] == 4000
    assert trained(zero_stage=3, ranks=2, bucket=10)["bucket of gradients"] == 40


def test_frozen_matrices_are_in_the_compute_type_unless_sharded():
    estimate = Estimate()
    memory.add_frozen(estimate, "ref", MODEL, replace(PLAIN, itemsize=2))
    memory.add_frozen(estimate, "other", MODEL, replace(PLAIN, itemsize=2, zero_stage=3, ranks=2))
    assert estimate.stays == {"ref": 600 * 2 + 400 * 4, "other": 2000}


def test_adapters_have_gradients_alone():
    found = trained(replace(MODEL, trained=100), itemsize=2)
    assert found == {"weights": 4000 - 600 * 2, "gradients": 400, "optimizer": 800}


def test_muon_has_one_state_for_its_matrices():
    estimate = Estimate()
    memory.add_trained(estimate, MODEL, PLAIN, muon=600)
    assert estimate.stays["optimizer"] == 8000 - 600 * 4


def test_an_offloaded_optimizer_is_on_the_host_of_a_gpu():
    estimate = Estimate()
    setting = replace(PLAIN, zero_stage=2, ranks=2, device="cuda", offload_optimizer=True)
    memory.add_trained(estimate, MODEL, setting)
    assert "optimizer" not in estimate.stays
    assert estimate.host == 4000 + 2000


def test_offloaded_weights_are_on_the_host_of_a_gpu_those_of_frozen_models_too():
    setting = replace(PLAIN, zero_stage=3, ranks=2, offload_param=True)
    on_gpu, on_cpu = Estimate(), Estimate()
    for estimate, device in ((on_gpu, "cuda"), (on_cpu, "cpu")):
        memory.add_trained(estimate, MODEL, replace(setting, device=device))
        memory.add_frozen(estimate, "ref", MODEL, replace(setting, device=device))
    assert on_gpu.host == 2000 + 2000
    assert not {"weights", "ref"} & on_gpu.stays.keys()
    assert (on_cpu.host, on_cpu.stays["weights"], on_cpu.stays["ref"]) == (0, 2000, 2000)


def test_activations_of_a_block():
    work = Work(tokens=8, row=4, targets=8, micro_batches=2)
    # A token: two fp32 streams of 10; norms, query twice, context: 5 x 10; keys and values 20; the
    # MLP 2 x 40. And 2 heads x 8 tokens x 4 scores.
    assert memory.block_activations(MODEL, work, PLAIN) == 8 * (80 + 4 * 150) + 4 * 64
    low = replace(PLAIN, itemsize=2)
    assert memory.block_activations(MODEL, work, low) == 8 * (80 + 2 * 150) + 2 * 64


def test_checkpointing_keeps_a_stream_a_block():
    work = Work(tokens=8, row=4, targets=8, micro_batches=2)
    deep = replace(MODEL, layers=50)
    saved = replace(PLAIN, gradient_checkpointing=True)
    more = memory.activations(deep, work, saved) - memory.activations(MODEL, work, saved)
    assert more == 48 * 8 * 10 * 4


def test_cache_of_keys_and_values():
    assert memory.kv_cache(MODEL, slots=3, length=7, itemsize=2) == 2 * 2 * 3 * 7 * 10 * 2


def test_weights_generated_with_are_a_second_model_under_zero_3():
    estimate = Estimate()
    memory.add_view(estimate, MODEL, PLAIN, has_lora=False)
    assert estimate.stays == {}
    memory.add_view(estimate, MODEL, replace(PLAIN, zero_stage=3), has_lora=False)
    assert estimate.stays == {"generation's weights": 4000}


def test_the_phase_that_takes_most_counts():
    estimate = Estimate(is_measured_late=False)
    estimate.add("weights", 1e9)
    estimate.phase("update", 3e9)
    estimate.phase("scoring", 2e9)
    assert estimate.total(PLAIN) == pytest.approx(1e9 + 3e9 * memory.HEAP + memory.PROCESS)
    on_gpu = replace(PLAIN, device="cuda")
    estimate.phase("update", 5e9)
    assert estimate.total(on_gpu) == pytest.approx(6e9 + memory.PROCESS)


def test_more_ranks_never_need_more_each():
    big = gpt2_size(48, 1600, 25, 50257, 1024)
    for stage in (1, 2, 3):
        sums = [sum(trained(big, zero_stage=stage, ranks=n).values()) for n in (2, 4, 8, 64, 1024)]
        assert sums == sorted(sums, reverse=True)


def cells_far_off(target: Path) -> set[str]:
    """Which of the eight combinations measure more than 15 percent beside the estimate."""
    command = [sys.executable, "-m", "benchmarks.memory", "--dtypes", "fp32", "--ranks", "1", "2"]
    command += ["--zero_stages", "0", "3", "--json", str(target)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr
    cells = json.loads(target.read_text())["cells"]
    assert len(cells) == 8
    print(*cells, sep="\n")
    return {
        f"{cell['stage']} zero{cell['zero_stage']} x{cell['ranks']}"
        for cell in cells
        if not 0.85 <= cell["ratio"] <= 1.15
    }


@pytest.mark.slow
def test_the_estimate_is_within_15_percent_of_what_ranks_take(tmp_path):
    # The heap's holes differ from run to run, by up to a tenth of the whole: twice is no accident.
    off = cells_far_off(tmp_path / "memory.json")
    assert not off or not off & cells_far_off(tmp_path / "again.json")
