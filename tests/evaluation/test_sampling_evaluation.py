"""Sampling from two models, pairing, and what is measured of the pairs."""

import json
import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers import PreTrainedTokenizerFast as Fast

from tests.evaluation.material import read_jsonl
from training.arguments.parsing import UserError
from training.data.encode import EncodedGroup
from training.data.records import Pair
from training.evaluation.evaluator import Evaluator
from training.evaluation.inputs import read_inputs
from training.evaluation.output_files import choose_labels, prepare_output, write_results
from training.evaluation.reward_model.accuracy import summarize_accuracy
from training.evaluation.sampling import (
    decode_responses,
    load_policy,
    sample_responses,
    score_responses,
    sum_response_logprobs,
)
from training.models.scalar import load_scalar_model, read_settings

CPU = torch.device("cpu")


@pytest.fixture
def sampled(evaluate_args):
    """Arguments, inputs, the `after` policy and its responses."""
    args = evaluate_args()
    inputs = read_inputs(args)
    side = inputs.after
    policy = load_policy(side.path, side.tokenizer, flag="--after", device=CPU, dtype=torch.float32)
    return args, side, policy, sample_responses(policy, side.tokenizer, side.prompts, [0], args)


def evaluated(args):
    """The evaluation and its summary."""
    evaluation = Evaluator(args, read_inputs(args), CPU)
    return evaluation, evaluation.run()


def plain_logprob(lm, prompt, response, pad_id, temperature=1.0):
    """The log-probability of a response by `transformers` alone, one sequence, no padding."""
    with torch.no_grad():
        logits = lm(torch.tensor([[*prompt, *response]])).logits[0] / temperature
    logits[:, pad_id] = -math.inf
    table = logits.log_softmax(dim=-1)
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return sum(table[place, token].item() for place, token in zip(places, response, strict=True))


@pytest.mark.parametrize("budget", [1, 60, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_of_responses_are_those_of_the_plain_model(sampled, budget, temperature):
    _, side, policy, responses = sampled
    lm = AutoModelForCausalLM.from_pretrained(side.path)
    lm.resize_token_embeddings(len(side.tokenizer))
    expected = [
        plain_logprob(lm.eval(), prompt, response, side.tokenizer.pad_token_id, temperature)
        for prompt, response in zip(side.prompt_ids, responses, strict=True)
    ]
    found = sum_response_logprobs(
        policy, side.prompt_ids, responses, temperature=temperature, token_budget=budget
    )
    # Sums of up to 12 fp32 log-probs.
    assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_scores_of_responses_are_those_of_the_saved_classifier(sampled, made, budget):
    _, side, _, responses = sampled
    path = str(made / "reward")
    settings = read_settings(path, flag="--x", hint="")
    model = load_scalar_model(path, settings, device=CPU, compute_dtype=torch.float32).eval()
    found = score_responses(
        model,
        side.prompt_ids,
        responses,
        pad_id=side.tokenizer.pad_token_id,
        token_budget=budget,
    )
    plain = AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        logits = [
            plain(torch.tensor([[*prompt, *response]])).logits.item()
            for prompt, response in zip(side.prompt_ids, responses, strict=True)
        ]
    expected = (torch.tensor(logits) - settings.score_mean) / settings.score_std
    assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_model_against_itself_draws_the_same_and_ties_everywhere(evaluate_args, made):
    evaluation, summary = evaluated(evaluate_args(after=str(made / "before")))
    assert evaluation.sides["before"] == evaluation.sides["after"]
    assert summary["judge"]["win_rate"] == 0.5
    assert summary["judge"]["win_rate_ci"] == [0.5, 0.5]
    assert summary["reward_model_score"]["win_rate"] == 0.5
    assert summary["kl"] == 0.0


def test_a_response_depends_on_its_prompt_and_the_seed_alone(evaluate_args):
    def drawn(**changes):
        evaluation, _ = evaluated(evaluate_args(reward_model_name_or_path="", **changes))
        return evaluation.sides["after"]

    every = drawn()
    # 24 prompts, of which every third is taken.
    assert drawn(max_prompts=8, generation_batch_size=3) == every[::3]
    assert drawn(seed=1) != every


def test_kl_is_the_mean_log_ratio_of_the_after_models_own_samples(evaluate_args, sampled, made):
    _, side, _, responses = sampled
    pad_id = side.tokenizer.pad_token_id
    sums = {}
    for name in ("before", "after"):
        lm = AutoModelForCausalLM.from_pretrained(made / name).eval()
        lm.resize_token_embeddings(len(side.tokenizer))
        sums[name] = [
            plain_logprob(lm, prompt, response, pad_id)
            for prompt, response in zip(side.prompt_ids, responses, strict=True)
        ]
    pairs = zip(sums["after"], sums["before"], strict=True)
    expected = sum(after - before for after, before in pairs) / len(responses)
    _, summary = evaluated(evaluate_args())
    assert expected > 1.0
    assert summary["kl"] == pytest.approx(expected, abs=1e-3)  # of sums near 30 in fp32


def test_best_of_n_is_the_best_of_n_samples_that_are_not_the_one_it_is_compared_with(
    evaluate_args, made
):
    args = evaluate_args(best_of=[2, 5])
    evaluation, summary = evaluated(args)
    side = read_inputs(args).before
    policy = load_policy(side.path, side.tokenizer, flag="--x", device=CPU, dtype=torch.float32)
    reward = load_scalar_model(
        str(made / "reward"),
        read_settings(str(made / "reward"), flag="--x", hint=""),
        device=CPU,
        compute_dtype=torch.float32,
    ).eval()
    for n in (2, 5):
        means = []
        for index, prompt in enumerate(side.prompts):
            drawn = sample_responses(policy, side.tokenizer, [prompt], range(1, n + 1), args)
            ids = [prompt.input_ids] * n
            scores = score_responses(
                reward, ids, drawn, pad_id=side.tokenizer.pad_token_id, token_budget=100
            )
            texts = decode_responses(side.tokenizer, ids, drawn)
            assert evaluation.sides[f"best_of_{n}"][index] == texts[int(scores.argmax())]
            means.append(scores.max().item())
        entry = summary[f"best_of_{n}"]
        assert entry["reward_model_score"]["mean"] == pytest.approx(sum(means) / len(means))
        assert 0.0 <= entry["win_rate"] == entry["judge"]["win_rate"] <= 1.0
    assert summary["best_of_5"]["reward_model_score"]["win_rate"] > 0.6


def test_without_a_judge_the_reward_model_judges(evaluate_args):
    _, summary = evaluated(evaluate_args(judge=[]))
    assert "judge" not in summary
    entry = summary["reward_model_score"]
    assert 0.0 < entry["win_rate_ci"][0] <= entry["win_rate"] <= entry["win_rate_ci"][1] < 1.0


def test_models_of_other_words_are_compared_without_a_kl(evaluate_args, made):
    args = evaluate_args(after=str(made / "other_words"), reward_model_name_or_path="")
    _, summary = evaluated(args)
    assert summary["kl"] is None
    assert summary["prompts"] == 24


def test_a_models_folder_is_never_written_to(evaluate_args, made):
    before = sorted(path.name for path in (made / "after").iterdir())
    with pytest.raises(UserError, match="holds a model"):
        prepare_output(evaluate_args(output_dir=str(made / "after")))
    assert sorted(path.name for path in (made / "after").iterdir()) == before


def test_accuracy_counts_decided_pairs_by_the_side_that_more_raters_prefer():
    pairs = (
        Pair(0, 1, 0.8, gap=1.5),  # 3 > 2: right
        Pair(1, 2, 0.4, gap=0.2),  # 2 > 1, but most prefer the other: wrong
        Pair(0, 2, 0.5, gap=0.0),  # a tie: not counted
        Pair(2, 0, 0.9, gap=2.0),  # 1 < 3: wrong
    )
    groups = [
        EncodedGroup([1], [[2], [3], [4]], pairs, "a:1"),
        EncodedGroup([1], [[5], [6]], (Pair(1, 0, 0.7),), "a:2"),  # 0 > -1: right; gap unknown
    ]
    entry = summarize_accuracy(groups, [3.0, 2.0, 1.0, -1.0, 0.0], seed=0)
    assert entry["pairs"] == 4
    assert entry["accuracy"] == 0.5
    assert entry["human_ceiling"] == pytest.approx((0.8 + 0.6 + 0.9 + 0.7) / 4)
    assert entry["pairs_gap1"] == 2
    assert entry["accuracy_gap1"] == 0.5
    assert entry["human_ceiling_gap1"] == pytest.approx(0.85)
    low, high = entry["accuracy_ci"]
    assert 0.0 <= low <= 0.5 <= high <= 1.0


def test_hard_labels_have_no_human_ceiling_and_unknown_gaps_no_second_accuracy():
    groups = [EncodedGroup([n], [[2], [3]], (Pair(0, 1),), f"a:{n}") for n in range(4)]
    entry = summarize_accuracy(groups, [1.0, 0.0] * 3 + [0.0, 1.0], seed=0)
    assert entry["accuracy"] == 0.75
    assert set(entry) == {"accuracy", "accuracy_ci", "pairs"}


def test_the_files_hold_every_pair_and_the_summary_its_keys(evaluate_args, made):
    args = evaluate_args(
        best_of=[4], comparisons_path=[str(made / "comparisons.jsonl")], group_by="place"
    )
    inputs = read_inputs(args)
    folder = prepare_output(args)
    evaluation = Evaluator(args, inputs, CPU)
    write_results(args, evaluation.run(), inputs.texts, evaluation.sides, None)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    keys = """judge.before judge.after judge.win_rate judge.win_rate_ci length.before length.after
        distinct2.before distinct2.after duplicates.before duplicates.after kl samples seconds
        reward_model.accuracy reward_model.accuracy_gap1 best_of_4.win_rate"""
    for path in keys.split():
        value = summary
        for key in path.split("."):
            value = value[key]
    assert summary["groups"] == 5
    assert len(summary["samples"]) == 10
    texts = [row["prompt"] for row in read_jsonl(made / "prompts.jsonl")]
    for side in ("before", "after"):
        rows = read_jsonl(folder / f"{side}.jsonl")
        assert [row["prompt"] for row in rows] == texts
        assert [row["response"] for row in rows] == evaluation.sides[side]
        shown = {sample["prompt"]: sample[side] for sample in summary["samples"]}
        assert shown.items() <= {row["prompt"]: row["response"] for row in rows}.items()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "5 groups by place" in page


def test_columns_are_called_after_the_folders_unless_told(evaluate_args, made):
    assert choose_labels(evaluate_args()) == ("before", "after")
    assert choose_labels(evaluate_args(after=str(made / "other_words"))) == (
        "before",
        "other_words",
    )
    assert choose_labels(evaluate_args(labels=["SFT", "PPO"])) == ("SFT", "PPO")


def test_a_response_keeps_the_space_that_decoding_it_alone_would_lose():
    words = {word: n for n, word in enumerate(["<unk>", "</s>", "▁one", "▁two", "▁", "x"])}
    inner = Tokenizer(models.WordLevel(words, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    tokenizer = Fast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    assert tokenizer.decode([3]) == "two"
    assert decode_responses(tokenizer, [[2], [3] * 20], [[3, 5, 1], [2]]) == [" twox", " one"]
