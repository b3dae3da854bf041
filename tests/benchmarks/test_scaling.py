"""benchmarks/scaling.md is what its program writes, and its figures can be worked by hand."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.scaling import MODELS, ScalingArgs
from training.arguments.parsing import UserError
from training.arguments.paths import REPOSITORY

ARGS = ScalingArgs()


def test_the_committed_report_is_what_the_program_writes():
    file = REPOSITORY / "benchmarks" / "scaling.md"
    again = "run python -m benchmarks.scaling --output benchmarks/scaling.md"
    assert file.read_text(encoding="utf-8") == scaling.report(ARGS), again


def test_bytes_sent_by_hand():
    # SFT of small on 8 GPUs, ZeRO 2: 128 sequences a rank, 16 in a micro-batch, so 8 of them.
    setting = scaling.setting_of(ARGS, 2, 8)
    gradients, weights = 8 * 2 * 7 / 8 * 4 * 124_439_808, 7 / 8 * 4 * 124_439_808
    assert scaling.sft_need(ARGS, MODELS["small"], setting).sent == gradients + weights


def test_seconds_by_hand():
    # Two GPUs of 1 TFLOP/s and 1 TB/s with links of 1 GB/s, all of it reached.
    shares: Any = {"compute_share": 1.0, "memory_share": 1.0, "network_share": 1.0}
    args = ScalingArgs(
        responses=2, prompt=3, response=4, ppo_epochs=1, gradient_checkpointing=False,
        peak_tflops=1.0, hbm_tb_s=1.0, link_gb_s=1.0, network_gb_s=0.5, **shares,
    )  # fmt: skip
    small = MODELS["small"]
    found = scaling.seconds(args, small, scaling.setting_of(args, 0, 2), 3e9)
    assert found["communication"] == 3
    # A rank has one sequence of 7 tokens, 4 of them with a head.
    body, head = 12 * 12 * 768**2, 50257 * 768
    trunk = 7 * 2 * body + 2 * 12 * 768 * 7 * 7
    assert found["scoring"] == pytest.approx((2 * trunk + 8 * head) / 1e12)
    adam = 2 * 28 * small.parameters / 1e12
    assert found["update"] == pytest.approx(3 * (2 * trunk + 8 * head) / 1e12 + adam)
    far = replace(args, gpus_per_host=1)
    assert scaling.seconds(far, small, scaling.setting_of(far, 0, 2), 3e9)["communication"] == 6


def test_the_critic_has_one_number_in_the_head_s_place():
    assert scaling.scorer(MODELS["small"]).parameters == 124_439_808 + 768
    assert scaling.scorer(MODELS["7B"]).parameters == 6_738_415_616 - 32000 * 4096 + 4096


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"micro_batch_tokens": 100}, "--micro_batch_tokens 100"),
        ({"compute_share": 1.5}, "--compute_share"),
        ({"gpu_gb": 0.0}, "--gpu_gb"),
        ({"output": "/nowhere/at/all/x.md"}, "--output"),
    ],
)
def test_a_flag_that_makes_no_sense_is_named(flags, named, monkeypatch):
    if "output" in flags:
        monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=named):
        ScalingArgs(**flags)
