"""The three stages under every ZeRO stage, on one rank and on two: all the same numbers.

Each cell is a whole run of ten steps in fp32 (see matrix.py); curves are compared with those of
one rank, ZeRO 0, a whole step in one micro-batch.
"""

import json
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
)

from tests.stages.cells import STEPS, Cell, all_cells
from tests.stages.material import Material, read_jsonl, write_jsonl
from tests.stages.processes import LAUNCH_SECONDS, Program, all_end_well, started
from training.models.scalar import ScalarModel, load_scalar_model, read_settings
from training.runtime.engine import has_cpu_bf16

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all runs
MATRIX_SECONDS = 3 * LAUNCH_SECONDS  # for some eighty runs in one process a rank
START = "sft-start-1"  # the stage-1 folder of all reward models and policies
TEMPERATURE = 0.8
OWN_RESPONSES = 12
PROGRAMS = {"sft": "step1_sft", "reward": "step2_reward", "ppo": "step3_ppo"}
OWN_CONFIG = {
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,  # shard even the smallest
        "stage3_prefetch_bucket_size": 0,
        "reduce_bucket_size": 5000,
        "sub_group_size": 20000,
    }
}


CELLS = {cell.folder: cell for cell in all_cells()}
COMPARED = [name for name, cell in CELLS.items() if cell.like and cell.dtype == "fp32"]
BF16 = [name for name, cell in CELLS.items() if cell.dtype == "bf16"]
HAS_BF16 = has_cpu_bf16()


# How far bf16 takes a stage from fp32.
BF16_BOUNDS = {
    "sft": {"loss/train": 0.01},
    "reward": {"loss/train": 0.01},
    "ppo": {"kl/ref": 0.05, "policy/entropy": 0.02},
}


def like(cell: str) -> str:
    """The run whose curve this one must show."""
    return next(c.folder for c in CELLS.values() if c.name == CELLS[cell].like)


def of_stage(*stages: str) -> list[str]:
    return [name for name, cell in CELLS.items() if cell.stage in stages and cell.dtype == "fp32"]


class Runs:
    """The folders that the cells have written."""

    def __init__(self, folder: Path, material: Material) -> None:
        self.folder, self.material = folder, material
        (folder / "own.json").write_text(json.dumps(OWN_CONFIG))
        config = GPT2Config.from_pretrained(material.base).to_dict()
        (folder / "config.json").write_text(json.dumps(config))
        write_jsonl(folder / "one.jsonl", read_jsonl(material.file("ppo", "dev"))[:1])

    def path(self, cell: str) -> Path:
        return self.folder / cell

    def record(self, cell: str, rank: int = 0) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.path(cell) / f"record.{rank}.json").read_text())
        return record

    def records(self, cell: str) -> list[dict[str, Any]]:
        return [self.record(cell, rank) for rank in range(CELLS[cell].ranks)]

    def metrics(self, cell: str) -> list[dict[str, Any]]:
        return read_jsonl(self.path(cell) / "metrics.jsonl")

    def steps(self, cell: str) -> dict[int, dict[str, float]]:
        """Metrics of each training step, without what measures time."""
        rows = [row for row in self.metrics(cell) if "optim/lr_scale" in row]
        assert len(rows) == len({row["step"] for row in rows}), "a step was logged twice"
        return {
            row["step"]: {k: v for k, v in row.items() if not k.startswith(("time", "speed"))}
            for row in rows
        }

    def needs(self, cell: Cell) -> list[str]:
        """The finished runs that a cell starts from."""
        reward = next(c.folder for c in CELLS.values() if c.name == cell.reward)
        names = {"sft": [], "reward": [START], "ppo": [START, reward]}[cell.stage]
        return [str(self.path(name)) for name in names]

    def flags(self, cell: Cell) -> list[str]:
        first = self.path(START)
        flags = f"--zero_stage {cell.zero} --micro_batch_tokens {cell.tokens} --seed 3"
        flags += f" --max_steps {cell.steps} --dtype {cell.dtype} --data_path {self.material.data}"
        if cell.stage == "sft":
            flags += f" --dropout 0 --weight_decay 0.1 --max_length 48 --batch_size 8 {LR[0]}"
            if "--init_from_scratch" not in cell.flags:
                flags += f" --model_name_or_path {self.material.base}"
        elif cell.stage == "reward":
            flags += f" --model_name_or_path {first} --max_length 48 --batch_size 6 {LR[1]}"
            flags += f" --normalization_samples {OWN_RESPONSES} --normalization_new_tokens 12"
        else:
            reward = next(c.folder for c in CELLS.values() if c.name == cell.reward)
            flags += f" --actor_model_name_or_path {first} {LR[2]} --temperature {TEMPERATURE}"
            flags += f" --reward_model_name_or_path {self.path(reward) / 'last'}"
            flags += " --rollout_batch_size 6 --samples_per_prompt 2 --minibatch_size 6"
            flags += " --max_prompt_length 24 --max_new_tokens 12"
            flags += " --kl_controller adaptive --kl_horizon 100"
        places = {
            "own.json": str(self.folder / "own.json"),
            "config.json": str(self.folder / "config.json"),
            "one.jsonl": str(self.folder / "one.jsonl"),
            "BASE": str(self.material.base),
        }
        return [*flags.split(), *(places.get(flag, flag) for flag in cell.flags)]


# Large enough that ten steps change the models a good deal. A PPO run of fewer steps must show
# the beginning of a longer one, so its rate is constant.
LR = (
    "--learning_rate 1e-2",
    "--learning_rate 1e-3",
    "--actor_lr 1e-3 --critic_lr 3e-4 --lr_scheduler constant --warmup_ratio 0",
)


@pytest.fixture(scope="session")
def runs(tmp_path_factory, material, user_env) -> Runs:
    """Every cell, in one process for one rank and in a pair of them for two, all at a time."""
    runs = Runs(tmp_path_factory.mktemp("matrix"), material)
    with ExitStack() as stack:
        programs = [
            stack.enter_context(start(runs, ranks, rank, user_env))
            for ranks in (1, 2)
            for rank in range(ranks)
        ]
        all_end_well(programs, MATRIX_SECONDS)
    return runs


def start(
    runs: Runs, ranks: int, rank: int, env: dict[str, str]
) -> AbstractContextManager[Program]:
    """The process of one rank, which makes all cells of that many ranks."""
    cells = [c for c in CELLS.values() if c.ranks == ranks and (c.dtype == "fp32" or HAS_BF16)]
    plan = [
        (
            PROGRAMS[cell.stage],
            runs.flags(cell),
            str(runs.path(cell.folder)),
            runs.needs(cell),
            cell.logit_chunk,
        )
        for cell in cells
    ]
    file = runs.folder / f"cells-{ranks}.json"
    file.write_text(json.dumps(plan))
    places = {"WORLD_SIZE": ranks, "LOCAL_SIZE": ranks, "RANK": rank, "LOCAL_RANK": rank}
    own = {name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"}
    return started(["python", "-m", "tests.stages.matrix", file], runs.folder, env | own)


@cache
def plain(kind: Any, folder: Path) -> Any:
    """A folder as plain `transformers` loads it."""
    return kind.from_pretrained(folder).eval()


@torch.no_grad()
def logprobs(folder: Path, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    """Log-probs of a response's tokens by plain `transformers`; PAD is no token of any response."""
    logits = plain(AutoModelForCausalLM, folder)(torch.tensor([[*prompt, *response]])).logits
    scaled = logits[0, len(prompt) - 1 : -1].double() / temperature
    scaled[:, AutoTokenizer.from_pretrained(folder).pad_token_id] = -torch.inf
    found: Tensor = scaled.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
    return found


def perplexity_loss(folder: Path, rows: list[dict[str, Any]]) -> float:
    """Cross-entropy per response token, EOS included, by plain `transformers`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = []
    for row in rows:
        prompt, response = (tokenizer(row[key]).input_ids for key in ("prompt", "response"))
        parts.append(logprobs(folder, prompt, [*response, tokenizer.eos_token_id], 1.0))
    return -torch.cat(parts).mean().item()


@torch.no_grad()
def raw_score(folder: Path, tokens: list[int]) -> float:
    """A reward model's score before normalisation, without padding or neighbours."""
    settings = read_settings(str(folder), flag="", hint="")
    ids = torch.tensor([tokens])
    if settings.is_plain:
        logit: float = plain(AutoModelForSequenceClassification, folder)(ids).logits.item()
        return logit
    model = our_scalar(folder)
    mask = torch.ones_like(ids, dtype=torch.bool)
    score: float = ScalarModel.scores(model(ids, mask), mask).item()
    return score * settings.score_std + settings.score_mean


@cache
def our_scalar(folder: Path) -> ScalarModel:
    settings = read_settings(str(folder), flag="", hint="")
    device = torch.device("cpu")
    return load_scalar_model(
        str(folder), settings, device=device, compute_dtype=torch.float32
    ).eval()


@pytest.mark.parametrize("cell", COMPARED)
def test_the_curve_is_that_of_one_rank_without_zero(runs, cell):
    curve, expected = runs.steps(cell), runs.steps(like(cell))
    near = CELLS[cell].tolerance  # 1e-3 for Muon, which computes in bf16
    assert len(curve) == CELLS[cell].steps
    for step, metrics in curve.items():
        # fp32 sums in another order; Adam carries the last bits on from step to step.
        assert metrics == pytest.approx(expected[step], rel=near, abs=near), f"step {step}"


@pytest.mark.skipif(not HAS_BF16, reason="the processor has no bf16")
@pytest.mark.parametrize("cell", BF16)
def test_bf16_stays_within_a_bound_of_fp32(runs, cell):
    curve, expected = runs.steps(cell), runs.steps(like(cell))
    assert len(curve) == CELLS[cell].steps
    # What PPO has learnt in bf16 draws other tokens.
    for step in [1] if CELLS[cell].stage == "ppo" else curve:
        for name, bound in BF16_BOUNDS[CELLS[cell].stage].items():
            assert curve[step][name] == pytest.approx(expected[step][name], abs=bound), step
    assert curve != expected


@pytest.mark.parametrize("cell", ["sft-whole-1", "reward-whole-1", "ppo-whole-1"])
def test_the_curves_have_something_to_show(runs, cell):
    losses = [row.get("loss/train", row.get("score/mean")) for row in runs.steps(cell).values()]
    assert max(losses) - min(losses) > 0.1
    small = cell.replace("whole", "zero0")
    assert runs.record(small)["blocks"] > 1.5 * runs.record(cell)["blocks"], "one micro-batch"


@pytest.mark.parametrize("cell", [name for name in COMPARED if CELLS[name].stage == "ppo"])
def test_the_same_tokens_are_sampled_under_any_zero_stage_and_on_any_rank(runs, cell):
    expected = [rollout["responses"] for rollout in runs.record(like(cell))["rollouts"]]
    for record in runs.records(cell):
        responses = [rollout["responses"] for rollout in record["rollouts"]]
        steps = range(CELLS[cell].steps + 1)  # an evaluation comes first
        differing = [step for step in steps if responses[step] != expected[step]]
        assert not differing, "weights of equal curves may still part two tokens at a tie"


def test_one_held_out_prompt_is_enough_for_two_ranks(runs):
    alone, of_all = (runs.record(cell)["rollouts"][0] for cell in ("ppo-few-2", "ppo-zero0-2"))
    assert len(alone["responses"]) == 1
    assert alone["responses"][0] == of_all["responses"][0]
    assert alone["scores"][0] == pytest.approx(of_all["scores"][0], rel=1e-5)


def test_rollouts_are_ragged(runs):
    for rollout in runs.record("ppo-whole-1")["rollouts"]:
        assert len({len(response) for response in rollout["responses"]}) > 1


@pytest.mark.parametrize("cell", of_stage("reward", "ppo"))
def test_generation_leaves_the_training_weights_bitwise_unchanged(runs, cell):
    for record in runs.records(cell):
        assert record["generations"]
        assert all(record["generations"])


@pytest.mark.parametrize("cell", of_stage("ppo"))
def test_ref_and_reward_model_stay_bitwise_unchanged_while_actor_and_critic_learn(runs, cell):
    for record in runs.records(cell):
        expected = {"actor": False, "critic": False, "ref": True, "reward_model": True}
        if "shared" in cell:
            del expected["critic"]
        assert record["unchanged"] == expected


@pytest.mark.parametrize("cell", of_stage("ppo"))
def test_the_first_minibatch_finds_the_policy_that_sampled_though_the_config_has_dropout(
    runs, cell
):
    assert GPT2Config.from_pretrained(runs.path(START)).resid_pdrop == 0.1
    first = runs.steps(cell)[1]
    assert first["policy/first_ratio_error"] == pytest.approx(0.0, abs=1e-5)
    assert first["policy/first_clip_fraction"] == 0.0
    assert first["kl/ref"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("cell", of_stage("reward"))
def test_stage_2_scores_its_held_out_pairs_as_its_saved_model_does(runs, cell):
    folder = runs.path(cell) / "last"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    file = runs.material.file("reward", "dev")
    expected = []
    for number, row in enumerate(read_jsonl(file), start=1):
        responses = row.get("responses") or [row["chosen"], row["rejected"]]
        scores = [
            raw_score(
                folder,
                [*tokenizer(row["prompt"] + text).input_ids, tokenizer.eos_token_id],
            )
            for text in responses
        ]
        pairs = row.get("pairs", [[0, 1]])
        expected += [(f"{file}:{number}", scores[i] - scores[j]) for i, j, *_ in pairs]
    for record in runs.records(cell):
        assert sorted(source for source, _ in record["pairs"]) == [s for s, _ in expected]
        found = [difference for _, difference in sorted(map(tuple, record["pairs"]))]
        assert found == pytest.approx([d for _, d in sorted(expected)], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("cell", of_stage("ppo"))
def test_ppo_scores_responses_as_stage_2_does_and_normalised(runs, cell):
    reward = next(c.folder for c in CELLS.values() if c.name == CELLS[cell].reward)
    folder = runs.path(reward) / "last"
    settings = read_settings(str(folder), flag="", hint="")
    assert settings.score_std != 1.0
    rollout = runs.record(cell)["rollouts"][-1]
    rows = zip(rollout["prompts"], rollout["responses"], strict=True)
    raw = torch.tensor([raw_score(folder, prompt + response) for prompt, response in rows])
    expected = (raw - settings.score_mean) / settings.score_std
    assert_close(torch.tensor(rollout["scores"]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", of_stage("reward"))
def test_scores_of_the_sft_models_own_responses_have_mean_0_and_variance_1(runs, cell):
    folder = runs.path(cell) / "last"
    settings = read_settings(str(folder), flag="", hint="")
    own = [prompt + response for record in runs.records(cell) for prompt, response in record["own"]]
    assert len(own) == OWN_RESPONSES
    raw = torch.tensor([raw_score(folder, tokens) for tokens in own])
    scores = (raw - settings.score_mean) / settings.score_std
    assert_close(scores.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    assert_close(scores.var(correction=0), torch.tensor(1.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("cell", of_stage("sft"))
def test_a_saved_model_has_the_logged_loss_in_plain_transformers(runs, cell):
    logged = [row["loss/eval"] for row in runs.metrics(cell) if "loss/eval" in row]
    rows = read_jsonl(runs.material.file("sft", "dev"))
    assert perplexity_loss(runs.path(cell) / "last", rows) == pytest.approx(logged[-1], rel=1e-5)
    assert perplexity_loss(runs.path(cell), rows) == pytest.approx(min(logged), rel=1e-5)


def test_the_best_model_is_kept_when_later_ones_are_worse(runs):
    logged = [row["loss/eval"] for row in runs.metrics("sft-worse-1") if "loss/eval" in row]
    assert min(logged) < logged[-1] - 0.1, "the run must get worse for this test"


@pytest.mark.parametrize("cell", of_stage("ppo"))
def test_a_saved_actor_has_the_logged_kl_to_its_ref_in_plain_transformers(runs, cell):
    rollout = runs.record(cell)["rollouts"][-1]
    actor, ref = runs.path(cell), runs.path(START)
    kl = [
        (logprobs(actor, *row, TEMPERATURE) - logprobs(ref, *row, TEMPERATURE)).sum().item()
        for row in zip(rollout["prompts"], rollout["responses"], strict=True)
    ]
    assert sum(kl) / len(kl) == pytest.approx(
        runs.metrics(cell)[-1]["eval/kl/ref"], rel=1e-5, abs=1e-5
    )


@pytest.mark.parametrize("cell", [name for name in COMPARED if CELLS[name].steps == STEPS])
def test_saved_weights_are_those_of_one_rank_without_zero(runs, cell):
    saved = "model.safetensors" if CELLS[cell].stage == "ppo" else "last/model.safetensors"
    found, expected = (load_file(runs.path(name) / saved) for name in (cell, like(cell)))
    # Adam makes steps of nearly full size even of gradients that are nothing but rounding.
    near = 10 * CELLS[cell].tolerance
    assert_close(found, expected, rtol=near, atol=near)


@pytest.mark.parametrize("name", ["sft", "reward", "ppo"])
def test_two_ranks_under_zero_3_store_half_of_each_model(runs, name):
    """In the user's own config, whose threshold keeps no small parameter whole."""
    for record in runs.records(f"{name}-own-2"):
        assert record["stored"] == pytest.approx([0.5] * len(record["stored"]), abs=0.02)
    for record in runs.records(f"{name}-zero2-2"):
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
@pytest.mark.parametrize(
    "cell", ["sft-lora1-1", "reward-lora1-1", "ppo-lora1-1", "ppo-lora2of2-2", "ppo-lora3of2-2"]
)
def test_with_lora_the_adapter_over_its_base_computes_what_the_merged_folder_does(runs, cell):
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
        found = PeftModel.from_pretrained(model, adapter).eval()(ids).logits
        # Stage 1 gave the base, which has no PAD, a row for it.
        expected = plain(kind, runs.path(cell))(ids).logits[..., : start.shape[-1]]
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - start).abs().max() > 1e-3


def test_no_op_was_compiled(runs, extensions):
    assert list(extensions.iterdir()) == []
