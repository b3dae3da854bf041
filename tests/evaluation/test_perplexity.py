"""The reader: an independent language model's perplexity of whole texts."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.material import prompts, write_jsonl
from tests.tiny_models import CPU, PAD_ID, build_tokenizer, gpt2, write_lm
from training.arguments.parsing import UserError
from training.evaluation.evaluator import Evaluator
from training.evaluation.inputs import read_inputs
from training.evaluation.perplexity import Reader
from training.evaluation.summary import format_table

TOKENIZER = build_tokenizer()
WORDS = len(TOKENIZER)


def reader_of(folder, lm):
    path = write_lm(folder, lm, TOKENIZER)
    return Reader(path, device=CPU, dtype=torch.float32, token_budget=64)


@pytest.fixture
def indifferent(tmp_path):
    """All tokens are alike to it: its output weights are zero."""
    lm: Any = gpt2(WORDS)
    torch.nn.init.zeros_(lm.get_input_embeddings().weight)
    return reader_of(tmp_path, lm)


@pytest.mark.parametrize("text", ["w1", "w3 w3 w3", "w1 w2 w3 w4 w5 w6 w7 w8"])
def test_to_a_reader_without_a_preference_every_text_is_as_likely_as_its_vocabulary_is_wide(
    indifferent, text
):
    assert indifferent.compute_perplexities([text]) == pytest.approx(
        [WORDS - 1], rel=1e-5
    )  # less PAD


def test_the_first_word_and_the_end_count_and_neighbours_do_not(tmp_path):
    lm = gpt2(WORDS, seed=1)
    reader = reader_of(tmp_path, lm)
    texts = ["w5 w9", "w1 w2 w3 w4 w5 w6"]
    ids = [TOKENIZER.eos_token_id, 5, 9, TOKENIZER.eos_token_id]
    with torch.no_grad():
        logits = lm.eval()(torch.tensor([ids])).logits[0, :-1].double()
    logits[:, PAD_ID] = -torch.inf
    losses = -logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
    assert reader.compute_perplexities(texts)[0] == pytest.approx(
        losses.mean().exp().item(), rel=1e-4
    )
    alone = [reader.compute_perplexities([text])[0] for text in texts]
    assert reader.compute_perplexities(texts) == pytest.approx(alone, rel=1e-4)


def test_a_text_longer_than_its_positions_is_read_as_far_as_they_go(tmp_path):
    reader = reader_of(tmp_path, gpt2(WORDS, seed=1))
    start = " ".join(f"w{n % 9}" for n in range(47))
    assert reader.compute_perplexities([start + " w1 w2 w3"]) == pytest.approx(
        reader.compute_perplexities([start + " w7"])
    )


def test_nothing_to_read_is_an_error(indifferent):
    with pytest.raises(UserError, match="no text"):
        indifferent.compute_perplexities([])


def test_an_evaluation_reads_both_sides_and_what_people_answered(evaluate_args, made, tmp_path):
    rows = [{"prompt": row["prompt"], "response": " the sea"} for row in prompts(24)[:5]]
    human = write_jsonl(tmp_path / "human.jsonl", [*rows, {"prompt": "else", "response": " a"}])
    flags = {
        "reader_model_name_or_path": str(made / "other_words"),
        "human_path": [str(human)],
        "best_of": [2],
    }
    args = evaluate_args(**flags, judge_text="prompt_and_response")
    inputs = read_inputs(args)
    assert inputs.human == [row["prompt"] + row["response"] for row in rows]
    evaluation = Evaluator(args, inputs, CPU)
    summary = evaluation.run()
    reader = Reader(str(made / "other_words"), device=CPU, dtype=torch.float32, token_budget=10_000)
    read = {
        side: [a + b for a, b in zip(inputs.texts, texts, strict=True)]
        for side, texts in evaluation.sides.items()
    }
    read["human"] = inputs.human
    # Of an even number of texts: the mean of the middle two.
    expected = {side: np.median(reader.compute_perplexities(texts)) for side, texts in read.items()}
    assert summary["perplexity"] == pytest.approx(expected, rel=1e-4)
    table = format_table(summary)
    assert "reader's perplexity, median" in table
    assert f"what people wrote: {expected['human']:.0f}" in table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reader_model_name_or_path": "{made}/reward"}, "--reader_model.* holds a reward model"),
        ({"human_path": ["{made}/prompts.jsonl"]}, "a demonstration needs 'prompt' and 'response'"),
        ({"human_path": ["{made}/others.jsonl"]}, "none of its 1 rows answers one of the prompts"),
    ],
)
def test_a_wrong_reader_is_one_line_before_any_model_is_loaded(
    evaluate_args, made, changes, message
):
    write_jsonl(made / "others.jsonl", [{"prompt": "unknown", "response": " a"}])
    flags = {"reader_model_name_or_path": "{made}/other_words", **changes}
    placed = {
        name: [text.format(made=made) for text in value]
        if isinstance(value, list)
        else value.format(made=made)
        for name, value in flags.items()
    }
    with pytest.raises(UserError, match=message):
        read_inputs(evaluate_args(**placed))


def test_human_answers_are_refused_without_a_reader(evaluate_args):
    with pytest.raises(UserError, match="--human_path is for a reader"):
        evaluate_args(human_path=["x"])
