"""The three stages on one and two ranks, under every ZeRO stage: all give the same numbers.

Each cell is a whole run of ten steps (see matrix.py); curves are compared with those of one rank,
ZeRO 0, a whole step in one micro-batch. Without --all, the cells are those of `default_cells`.
"""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
)

from tests.stages.cells import STEPS, default_cells
from tests.stages.material import read_jsonl
from tests.stages.matrix_runs import (
    CELLS,
    HAS_BF16,
    NORMALIZATION_SAMPLES,
    START,
    TEMPERATURE,
    Runs,
    make_all,
    reference_of,
)
from tests.stages.pairs import pairs_of
from tests.stages.plain_models import load_plain, mean_loss, raw_score, response_logprobs
from tests.stages.processes import is_full
from training.models.scalar import read_settings

pytestmark = pytest.mark.timeout(1800)  # the first test waits for all runs
DEFAULT = [cell.folder for cell in default_cells()]
# How far bf16 takes a stage from fp32.
BF16_BOUNDS = {
    "sft": {"loss/train": 0.01},
    "reward": {"loss/train": 0.01},
    "ppo": {"kl/ref": 0.05, "policy/entropy": 0.02},
}


def mark_cells(names: list[str]) -> Any:
    """A test's parameter `cell`; those that are not run by default are marked `full`."""
    marks = {name: () if name in DEFAULT else pytest.mark.full for name in names}
    return pytest.mark.parametrize(
        "cell", [pytest.param(name, marks=mark) for name, mark in marks.items()]
    )


def list_cells(*stages: str) -> list[str]:
    return [name for name, cell in CELLS.items() if cell.stage in stages and cell.dtype == "fp32"]


COMPARED = [name for name, cell in CELLS.items() if cell.like and cell.dtype == "fp32"]


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory, material, user_env) -> Runs:
    """Every cell of the tests that were asked for: all, or those of the default run."""
    runs = Runs(tmp_path_factory.mktemp("matrix"), material)
    names = CELLS if is_full(request.session) else DEFAULT
    make_all(runs, [CELLS[name] for name in names], user_env)
    return runs


def test_each_two_settings_occur_together_in_a_run_that_is_made_by_default():
    def pairs(names: Any) -> set[tuple[str, str]]:
        return set().union(*(pairs_of(CELLS[name].settings) for name in names))

    assert pairs(DEFAULT) == pairs(CELLS)
    fp32 = [name for name in CELLS if CELLS[name].dtype == "fp32"]
    assert pairs(name for name in fp32 if name in DEFAULT) == pairs(fp32)


@mark_cells(COMPARED)
def test_the_curve_is_that_of_one_rank_without_zero(runs, cell):
    curve, expected = runs.steps(cell), runs.steps(reference_of(cell))
    near = CELLS[cell].tolerance  # 1e-3 for Muon, which computes in bf16
    assert len(curve) == CELLS[cell].steps
    for step, metrics in curve.items():
        # fp32 sums in another order; Adam carries the last bits on from step to step.
        assert metrics == pytest.approx(expected[step], rel=near, abs=near), f"step {step}"


@pytest.mark.skipif(not HAS_BF16, reason="the processor has no bf16")
@mark_cells([name for name, cell in CELLS.items() if cell.dtype == "bf16"])
def test_bf16_stays_within_a_bound_of_fp32(runs, cell):
    curve, expected = runs.steps(cell), runs.steps(reference_of(cell))
    assert len(curve) == CELLS[cell].steps
    # An actor trained in bf16 samples other tokens after its first step.
    for step in [1] if CELLS[cell].stage == "ppo" else curve:
        for name, bound in BF16_BOUNDS[CELLS[cell].stage].items():
            assert curve[step][name] == pytest.approx(expected[step][name], abs=bound), step
    assert curve != expected


@pytest.mark.parametrize(
    ("cell", "small"),
    [
        ("sft-whole-1", "sft-zero2-1"),
        ("reward-whole-1", "reward-zero1-1"),
        ("ppo-whole-1", "ppo-chunks-1"),
    ],
)
def test_curves_vary_and_small_micro_batches_are_several(runs, cell, small):
    losses = [row.get("loss/train", row.get("score/mean")) for row in runs.steps(cell).values()]
    assert max(losses) - min(losses) > 0.1
    assert runs.record(small)["blocks"] > 1.5 * runs.record(cell)["blocks"], "one micro-batch"


@mark_cells([name for name in COMPARED if CELLS[name].stage == "ppo"])
def test_the_same_tokens_are_sampled_under_any_zero_stage_and_on_any_rank(runs, cell):
    expected = [rollout["responses"] for rollout in runs.record(reference_of(cell))["rollouts"]]
    for record in runs.records(cell):
        responses = [rollout["responses"] for rollout in record["rollouts"]]
        steps = range(CELLS[cell].steps + 1)  # an evaluation comes first
        differing = [step for step in steps if responses[step] != expected[step]]
        assert not differing, "weights of equal curves may still part two tokens at a tie"


def test_one_held_out_prompt_is_enough_for_two_ranks(runs):
    one, all_rows = (runs.record(cell)["rollouts"][0] for cell in ("ppo-few-2", "ppo-whole-1"))
    assert len(one["responses"]) == 1
    assert one["responses"][0] == all_rows["responses"][0]
    assert one["scores"][0] == pytest.approx(all_rows["scores"][0], rel=1e-5)


def test_rollouts_are_ragged(runs):
    for rollout in runs.record("ppo-whole-1")["rollouts"]:
        assert len({len(response) for response in rollout["responses"]}) > 1


@mark_cells(list_cells("reward", "ppo"))
def test_generation_leaves_the_training_weights_bitwise_unchanged(runs, cell):
    for record in runs.records(cell):
        assert record["generations"]
        assert all(record["generations"])


@mark_cells(list_cells("ppo"))
def test_ref_and_reward_model_stay_bitwise_unchanged_while_actor_and_critic_learn(runs, cell):
    for record in runs.records(cell):
        expected = {"actor": False, "critic": False, "ref": True, "reward_model": True}
        if "shared" in cell:
            del expected["critic"]
        assert record["unchanged"] == expected


@mark_cells(list_cells("ppo"))
def test_the_first_minibatch_has_ratio_one_though_the_config_has_dropout(runs, cell):
    assert GPT2Config.from_pretrained(runs.path(START)).resid_pdrop == 0.1
    first = runs.steps(cell)[1]
    assert first["policy/first_ratio_error"] == pytest.approx(0.0, abs=1e-5)
    assert first["policy/first_clip_fraction"] == 0.0
    assert first["kl/ref"] == pytest.approx(0.0, abs=1e-5)


@mark_cells(list_cells("reward"))
def test_stage_2_scores_its_held_out_pairs_as_its_saved_model_does(runs, cell):
    folder = runs.path(cell) / "last"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    file = runs.material.file("reward", "dev")
    expected = []
    for number, row in enumerate(read_jsonl(file), start=1):
        responses = row.get("responses") or [row["chosen"], row["rejected"]]
        scores = [
            raw_score(folder, [*tokenizer(row["prompt"] + text).input_ids, tokenizer.eos_token_id])
            for text in responses
        ]
        pairs = row.get("pairs", [[0, 1]])
        expected += [(f"{file}:{number}", scores[i] - scores[j]) for i, j, *_ in pairs]
    for record in runs.records(cell):
        assert sorted(source for source, _ in record["pairs"]) == [s for s, _ in expected]
        differences = [difference for _, difference in sorted(map(tuple, record["pairs"]))]
        assert differences == pytest.approx([d for _, d in sorted(expected)], rel=1e-5, abs=1e-5)


@mark_cells(list_cells("ppo"))
def test_ppo_scores_responses_as_stage_2_does_and_normalized(runs, cell):
    reward = next(c.folder for c in CELLS.values() if c.name == CELLS[cell].reward)
    folder = runs.path(reward) / "last"
    settings = read_settings(str(folder), flag="", hint="")
    assert settings.score_std != 1.0
    rollout = runs.record(cell)["rollouts"][-1]
    rows = zip(rollout["prompts"], rollout["responses"], strict=True)
    raw = torch.tensor([raw_score(folder, prompt + response) for prompt, response in rows])
    expected = (raw - settings.score_mean) / settings.score_std
    assert_close(torch.tensor(rollout["scores"]), expected, rtol=1e-5, atol=1e-5)


@mark_cells(list_cells("reward"))
def test_scores_of_the_sft_models_responses_have_mean_0_and_variance_1(runs, cell):
    folder = runs.path(cell) / "last"
    settings = read_settings(str(folder), flag="", hint="")
    records = runs.records(cell)
    samples = [prompt + response for record in records for prompt, response in record["samples"]]
    assert len(samples) == NORMALIZATION_SAMPLES
    raw = torch.tensor([raw_score(folder, tokens) for tokens in samples])
    scores = (raw - settings.score_mean) / settings.score_std
    assert_close(scores.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    assert_close(scores.var(correction=0), torch.tensor(1.0), rtol=1e-4, atol=0)


@mark_cells(list_cells("sft"))
def test_a_saved_model_has_the_logged_loss_in_plain_transformers(runs, cell):
    logged = [row["loss/eval"] for row in runs.metrics(cell) if "loss/eval" in row]
    rows = read_jsonl(runs.material.file("sft", "dev"))
    assert mean_loss(runs.path(cell) / "last", rows) == pytest.approx(logged[-1], rel=1e-5)
    assert mean_loss(runs.path(cell), rows) == pytest.approx(min(logged), rel=1e-5)


def test_the_best_model_is_kept_when_later_ones_are_worse(runs):
    logged = [row["loss/eval"] for row in runs.metrics("sft-worse-1") if "loss/eval" in row]
    assert min(logged) < logged[-1] - 0.1, "the run must get worse for this test"


@mark_cells(list_cells("ppo"))
def test_a_saved_actor_has_the_logged_kl_to_its_ref_in_plain_transformers(runs, cell):
    rollout = runs.record(cell)["rollouts"][-1]
    actor, ref = (
        [
            response_logprobs(folder, *row, TEMPERATURE).sum().item()
            for row in zip(rollout["prompts"], rollout["responses"], strict=True)
        ]
        for folder in (runs.path(cell), runs.path(START))
    )
    assert (sum(actor) - sum(ref)) / len(actor) == pytest.approx(
        runs.metrics(cell)[-1]["eval/kl/ref"], rel=1e-5, abs=1e-5
    )


@mark_cells([name for name in COMPARED if CELLS[name].steps == STEPS])
def test_saved_weights_are_those_of_one_rank_without_zero(runs, cell):
    file = "model.safetensors" if CELLS[cell].stage == "ppo" else "last/model.safetensors"
    saved, expected = (load_file(runs.path(name) / file) for name in (cell, reference_of(cell)))
    # Adam makes steps of nearly full size even of gradients that are nothing but rounding.
    near = 10 * CELLS[cell].tolerance
    assert_close(saved, expected, rtol=near, atol=near)


@pytest.mark.parametrize(
    ("zero3", "zero2"),
    [
        ("sft-own-2", "sft-zero2-2"),
        ("reward-own-2", "reward-packed2-2"),
        ("ppo-own-2", "ppo-shared-zero2-2"),
    ],
)
def test_two_ranks_under_zero_3_store_half_of_each_model(runs, zero3, zero2):
    """In a user's config, whose threshold keeps no small parameter whole."""
    for record in runs.records(zero3):
        assert record["stored"] == pytest.approx([0.5] * len(record["stored"]), abs=0.02)
    for record in runs.records(zero2):
        assert record["stored"] == [1.0] * len(record["stored"])


@pytest.mark.parametrize(
    ("cell", "without"),
    [("sft-checkpointing-2", "sft-zero2-2"), ("ppo-own-2", ""), ("reward-own-2", "reward-zero3-2")],
)
def test_gradient_checkpointing_recomputes_each_block(runs, cell, without):
    assert json.loads((runs.path(cell) / "args.json").read_text())["gradient_checkpointing"]
    if without:
        assert runs.record(cell)["blocks"] > 1.5 * runs.record(without)["blocks"]
    assert runs.record(cell)["blocks"] > 0


# peft's own model class asks transformers under an older name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@mark_cells(
    ["sft-lora1-1", "reward-lora1-1", "ppo-lora1-1", "sft-lora-offload-all-2", "ppo-lora2of2-2",
     "ppo-lora3of2-2"]
)  # fmt: skip
def test_a_lora_adapter_over_its_base_computes_what_the_merged_folder_does(runs, cell):
    from peft import PeftModel

    adapter = runs.path(cell) / "adapter"
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    is_reward = CELLS[cell].stage == "reward"
    kind: Any = AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM
    config = {"num_labels": 1} if is_reward else {}
    model: Any = kind.from_pretrained(base, **config)
    ids = torch.tensor([[4, 9, 7, 12, 5]])
    with torch.no_grad():
        start = model.eval()(ids).logits
        adapted = PeftModel.from_pretrained(model, adapter).eval()(ids).logits
        # Stage 1 gave the base, which has no PAD, a row for it.
        merged = load_plain(kind, runs.path(cell))(ids).logits[..., : start.shape[-1]]
    assert_close(adapted, merged, rtol=1e-4, atol=1e-4)
    assert (adapted - start).abs().max() > 1e-3


def test_no_op_was_compiled(runs, extensions):
    assert list(extensions.iterdir()) == []
