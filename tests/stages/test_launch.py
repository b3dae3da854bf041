"""Real launches of the three stages, each as somebody would type it, one stage after the other.

On one rank: run.sh, plain python, and the bare `deepspeed` with the defaults of every path. On
two: torchrun, and run.sh with NUM_GPUS=2.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tests.stages.chains import (
    RUN,
    STEPS,
    TOKEN,
    Launch,
    launch_on_one_rank,
    launch_on_two_ranks,
)
from tests.stages.material import read_jsonl


@pytest.fixture(scope="module")
def chains(tmp_path_factory, material, user_env) -> dict[str, dict[str, Launch]]:
    """Both chains, at a time: a launch of one leaves a core idle for seconds."""
    makers = {"one_rank": launch_on_one_rank, "two_ranks": launch_on_two_ranks}
    with ThreadPoolExecutor() as pool:
        futures = {
            name: pool.submit(make, tmp_path_factory.mktemp(name), material, user_env)
            for name, make in makers.items()
        }
        return {name: future.result() for name, future in futures.items()}


@pytest.fixture(params=[f"{chain}-{stage}" for chain in ("one_rank", "two_ranks") for stage in RUN])
def run(request, chains) -> Launch:
    chain, stage = request.param.split("-")
    launch: Launch = chains[chain][stage]
    return launch


@pytest.fixture
def one_rank(chains):
    return chains["one_rank"]


@pytest.fixture
def two_ranks(chains):
    return chains["two_ranks"]


def test_it_ends_with_status_0_and_writes_nothing_to_stderr_itself(run):
    assert run.status == 0, run.errors
    theirs = ("torch/distributed/run", "ActivityProfilerHandler")  # torchrun, torch's profiler
    lines = run.errors.splitlines()
    assert [line for line in lines if not any(words in line for words in theirs)] == []


def test_a_terminal_that_is_none_gets_plain_lines_and_each_once(run):
    assert "\r" not in run.output
    lines = run.output.splitlines()
    assert len(lines) == len(set(lines)), "printed by more than one rank"
    assert any(line.startswith(f"step 1/{STEPS[run.stage]}") for line in lines)
    assert any(line.startswith(f"step {STEPS[run.stage]}/{STEPS[run.stage]}") for line in lines)


def test_the_completion_marker_is_there_and_nothing_half_written(run):
    marker = json.loads((run.folder / "complete.json").read_text())
    assert marker["finished"] > 0
    newest = max(file.stat().st_mtime_ns for file in run.folder.rglob("*.json*"))
    assert (run.folder / "complete.json").stat().st_mtime_ns == newest
    assert not list(run.folder.parent.rglob("*.writing"))
    assert not list(run.folder.rglob("*.tmp"))


def test_args_json_holds_the_resolved_flags(run):
    args = json.loads((run.folder / "args.json").read_text())
    assert args["max_steps"] == STEPS[run.stage]
    assert args["zero_stage"] == (3 if run.folder.name == "reward" else 2)
    assert "micro_batch_tokens" in args


def test_metrics_have_one_row_a_step_and_the_evaluations(run):
    steps = [row["step"] for row in run.rows("optim/lr_scale")]
    assert steps == list(range(1, STEPS[run.stage] + 1))
    key, expected = {"sft": ("loss/eval", [2, 3]), "reward": ("accuracy/eval", [2, 3]),
                     "ppo": ("eval/score/mean", [0, 2])}[run.stage]  # fmt: skip
    assert [row["step"] for row in run.rows(key)] == expected


def test_ppo_logs_all_that_is_to_be_watched(one_rank):
    names = (
        "score/mean kl/ref kl/coef policy/kl policy/entropy policy/clip_fraction policy/ratio_max "
        "policy/ratio_min value/explained_variance response/length response/eos_rate "
        "policy/grad_norm value/grad_norm time/generate_s time/score_s time/update_s "
        "speed/tokens_per_s speed/generate_tokens_per_s speed/score_tokens_per_s "
        "speed/update_tokens_per_s speed/roofline speed/generate_roofline speed/score_roofline "
        "speed/update_roofline"
    )
    for row in one_rank["ppo"].rows("optim/lr_scale"):
        assert set(names.split()) <= row.keys()
        assert all(row[name] is not None for name in names.split())


def test_a_self_check_comes_before_step_1_and_a_judge_reads_each_evaluation(two_ranks):
    run = two_ranks["ppo"]
    lines = run.output.splitlines()
    checks = [number for number, line in enumerate(lines) if "ranks in agreement" in line]
    steps = [number for number, line in enumerate(lines) if line.startswith("step ")]
    assert len(checks) == 1
    assert checks[0] < steps[0]
    judged = run.rows("eval/judge/mean")
    assert [row["step"] for row in judged] == [0, 2]
    assert all(row["eval/judge/mean"] > 0 for row in judged)


def test_samples_hold_texts(run):
    rows = read_jsonl(run.folder / "samples.jsonl")
    assert rows
    for row in rows:
        assert row["prompt"].strip()
        assert any(row.get(key) is not None for key in ("response", "responses"))


def test_tensorboard_holds_what_metrics_jsonl_holds(run):
    board = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    for name in board.Tags()["scalars"]:
        events = [(event.step, event.value) for event in board.Scalars(name)]
        rows = [(row["step"], row[name]) for row in run.rows(name)]
        assert [step for step, _ in events] == [step for step, _ in rows]
        assert [v for _, v in events] == pytest.approx([v for _, v in rows], rel=1e-6)
    logged = {name for row in run.rows("step") for name in row} - {"step", "time"}
    assert logged == set(board.Tags()["scalars"])


@pytest.mark.parametrize("chain", ["one_rank", "two_ranks"])
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_saved_language_models_load_in_plain_transformers(chains, chain, stage):
    run = chains[chain][stage]
    tokenizer = AutoTokenizer.from_pretrained(run.folder)
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    folders = [run.folder, run.folder / "last"] if run.stage == "sft" else [run.folder]
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.vocab_size == len(tokenizer)
        assert model.config.pad_token_id == tokenizer.pad_token_id
        ids = tokenizer("why does the red fox wait", return_tensors="pt").input_ids
        assert torch.isfinite(model(ids).logits).all()


def test_a_plain_reward_model_loads_in_plain_transformers_and_another_is_refused(
    one_rank, two_ranks
):
    folder = one_rank["reward"].folder
    for path in (folder, folder / "last", one_rank["ppo"].folder / "critic"):
        model = AutoModelForSequenceClassification.from_pretrained(path)
        assert model.config.num_labels == 1
    with pytest.raises(ValueError, match="scalar_model"):
        AutoModelForSequenceClassification.from_pretrained(two_ranks["reward"].folder)


def test_stage_2_states_its_accuracy_with_an_interval(one_rank):
    report = json.loads((one_rank["reward"].folder / "evaluation.json").read_text())
    low, high = report["all"]["interval"]
    assert low <= report["all"]["accuracy"] <= high
    assert report["all"]["pairs"] == 10  # of the six held-out rows two are groups of three pairs


@pytest.mark.parametrize("chain", ["one_rank", "two_ranks"])
def test_stage_2_reports_how_far_its_model_can_be_trusted(chains, chain):
    run = chains[chain]["reward"]
    report = json.loads((run.folder / "evaluation.json").read_text())
    assert [row["step"] for row in report["drift"]] == [2, 3]
    kept = next(row for row in report["drift"] if row["step"] == report["step"])
    assert report["calibration"]["ece"] == pytest.approx(kept["calibration/ece"])
    logged = next(row for row in run.rows("accuracy/eval") if row["step"] == report["step"])
    assert report["all"]["accuracy"] == pytest.approx(logged["accuracy/eval"])
    few = [warning["text"] for warning in report["warnings"] if "only 10" in warning["text"]]
    assert len(few) == 1
    lines = run.output.splitlines()
    assert f"warning: {few[0]}" in lines
    assert any(line.startswith("held-out accuracy ") for line in lines)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert ("The worst pairs" in page) == bool(report["worst"])
    board = EventAccumulator(str(run.folder / "tensorboard"))
    board.Reload()
    assert board.Tags()["histograms"] == ["score/eval_difference"]
    assert {"warnings/text_summary", "reliability/text_summary"} <= set(board.Tags()["tensors"])


def test_ppo_moves_the_actor_away_from_stage_1(one_rank):
    before = load_file(one_rank["sft"].folder / "model.safetensors")
    after = load_file(one_rank["ppo"].folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("chain", ["one_rank", "two_ranks"])
def test_no_file_or_log_holds_a_token_of_the_environment(chains, chain):
    written = [path for path in chains[chain]["sft"].cwd.rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert {"args.json", "metrics.jsonl", "report.html", "complete.json", "state.json"} <= names
    assert any(path.suffix == ".out" for path in written), "the log is looked through too"
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []


def test_no_op_was_compiled(one_rank, two_ranks, extensions):
    assert list(extensions.iterdir()) == []
