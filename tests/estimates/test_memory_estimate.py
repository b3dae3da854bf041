"""The memory estimate, worked by hand and compared with measurements."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from training.estimates import memory
from training.estimates.memory import Estimate
from training.estimates.shapes import LargestBatch, ModelShape, Setting
from training.hybrid_engine import gpt2
from training.models import lm_head

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelShape(
    layers=2,
    width=10,
    inner=40,
    heads=2,
    key_width=10,
    vocabulary=30,
    parameters=1000,
    matrices=600,
    trained=1000,
)
PLAIN = Setting(zero_stage=0, ranks=1, itemsize=4, whole_blocks=True)


def count_trained(model: ModelShape = MODEL, **changes) -> dict[str, float]:
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
def test_weights_gradients_and_optimizer_by_stage(stage, ranks, weights, gradients, optimizer):
    stays = count_trained(zero_stage=stage, ranks=ranks, bucket=0)
    assert stays == {"weights": weights, "gradients": gradients, "optimizer": optimizer}


def test_a_bucket_is_at_most_as_large_as_the_gradients():
    assert count_trained(zero_stage=3, ranks=2)["bucket of gradients"] == 4000
    assert count_trained(zero_stage=3, ranks=2, bucket=10)["bucket of gradients"] == 40


def test_frozen_matrices_are_in_the_compute_type_unless_sharded():
    estimate = Estimate()
    memory.add_frozen(estimate, "ref", MODEL, replace(PLAIN, itemsize=2))
    memory.add_frozen(estimate, "other", MODEL, replace(PLAIN, itemsize=2, zero_stage=3, ranks=2))
    assert estimate.stays == {"ref": 600 * 2 + 400 * 4, "other": 2000}


def test_limits_copied_from_the_models_equal_theirs():
    for name in ("LOSS_BLOCK", "LOGIT_CHUNK", "SOFTMAX_CHUNK"):
        assert getattr(memory, name) == getattr(lm_head, name)
    assert memory.PREFILL_TOKENS == gpt2.PREFILL_TOKENS


def test_only_adapters_have_gradients():
    found = count_trained(replace(MODEL, trained=100), itemsize=2)
    assert found == {"weights": 4000 - 600 * 2, "gradients": 400, "optimizer": 800}


def test_muon_has_one_state_for_its_matrices():
    estimate = Estimate()
    memory.add_trained(estimate, MODEL, PLAIN, muon=600)
    assert estimate.stays["optimizer"] == 8000 - 600 * 4


def test_an_offloaded_optimizer_is_on_the_gpus_host():
    estimate = Estimate()
    setting = replace(PLAIN, zero_stage=2, ranks=2, device="cuda", offload_optimizer=True)
    memory.add_trained(estimate, MODEL, setting)
    assert "optimizer" not in estimate.stays
    assert estimate.host == 4000 + 2000


def test_offloaded_weights_are_on_the_gpus_host_those_of_frozen_models_too():
    setting = replace(PLAIN, zero_stage=3, ranks=2, offload_param=True)
    on_gpu, on_cpu = Estimate(), Estimate()
    for estimate, device in ((on_gpu, "cuda"), (on_cpu, "cpu")):
        memory.add_trained(estimate, MODEL, replace(setting, device=device))
        memory.add_frozen(estimate, "ref", MODEL, replace(setting, device=device))
    assert on_gpu.host == 2000 + 2000
    assert not {"weights", "ref"} & on_gpu.stays.keys()
    assert (on_cpu.host, on_cpu.stays["weights"], on_cpu.stays["ref"]) == (0, 2000, 2000)


def test_activations_of_a_block():
    batch = LargestBatch(tokens=8, row=4, targets=8, micro_batches=2)
    # A token: two fp32 streams of 10; norms, query twice, context: 5 x 10; keys and values 20; the
    # MLP 2 x 40. And 2 heads x 8 tokens x 4 scores.
    assert memory.count_block_activations(MODEL, batch, PLAIN) == 8 * (80 + 4 * 150) + 4 * 64
    low = replace(PLAIN, itemsize=2)
    assert memory.count_block_activations(MODEL, batch, low) == 8 * (80 + 2 * 150) + 2 * 64


def test_checkpointing_keeps_one_residual_stream_per_block():
    batch = LargestBatch(tokens=8, row=4, targets=8, micro_batches=2)
    deep = replace(MODEL, layers=50)
    saved = replace(PLAIN, gradient_checkpointing=True)
    more = memory.count_activations(deep, batch, saved) - memory.count_activations(
        MODEL, batch, saved
    )
    assert more == 48 * 8 * 10 * 4


def test_the_cache_holds_keys_and_values_of_all_layers():
    assert memory.count_kv_cache(MODEL, slots=3, length=7, itemsize=2) == 2 * 2 * 3 * 7 * 10 * 2


def test_generation_needs_a_second_model_under_zero_3():
    estimate = Estimate()
    memory.add_view(estimate, MODEL, PLAIN, has_lora=False)
    assert estimate.stays == {}
    memory.add_view(estimate, MODEL, replace(PLAIN, zero_stage=3), has_lora=False)
    assert estimate.stays == {"generation's weights": 4000}


def test_the_largest_phase_counts():
    estimate = Estimate(is_measured_late=False)
    estimate.add("weights", 1e9)
    estimate.phases = {"update": 3e9, "scoring": 2e9}
    assert estimate.total(PLAIN) == pytest.approx(1e9 + 3e9 * memory.HEAP + memory.PROCESS)
    on_gpu = replace(PLAIN, device="cuda")
    estimate.phases["update"] = 5e9
    assert estimate.total(on_gpu) == pytest.approx(6e9 + memory.PROCESS)


def test_more_ranks_never_need_more_each():
    size = 1_557_611_200
    big = replace(MODEL, parameters=size, matrices=12 * 48 * 1600**2, trained=size)
    for stage in (1, 2, 3):
        sums = [
            sum(count_trained(big, zero_stage=stage, ranks=n).values()) for n in (2, 4, 8, 64, 1024)
        ]
        assert sums == sorted(sums, reverse=True)


def list_cells_far_off(target: Path) -> set[str]:
    """Run the benchmark; return the combinations that are more than 15 percent off."""
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
@pytest.mark.full
def test_the_estimate_is_within_15_percent_of_measured_memory(tmp_path):
    # The heap's holes vary by up to a tenth of the whole: only twice is no accident.
    off = list_cells_far_off(tmp_path / "memory.json")
    assert not off or not off & list_cells_far_off(tmp_path / "again.json")
