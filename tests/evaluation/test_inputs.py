"""Prompts, models and flags of an evaluation, checked before any model is loaded."""

import pytest

from tests.data.annotation.exports import annotation, chosen, task, write
from tests.evaluation.material import byte_tokenizer, write_jsonl, write_model
from training.arguments.parsing import UserError
from training.evaluation.inputs import read_inputs


def test_prompts_that_one_side_drops_are_dropped_on_both(evaluate_args, tmp_path):
    # A tokenizer to which one long word is a single token.
    other = byte_tokenizer()
    other.add_tokens(["incomprehensible"])
    path = write_model(tmp_path / "other", seed=2, tokenizer=other)
    rows = [{"prompt": text} for text in ("short", "an incomprehensible word", "also short")]
    inputs = read_inputs(
        evaluate_args(
            after=str(path),
            reward_model_name_or_path="",
            data_path=[str(write_jsonl(tmp_path / "p.jsonl", rows))],
            overlong_prompts="drop",
            max_prompt_length=12,
        )
    )
    assert inputs.texts == ["short", "also short"]
    for side in (inputs.before, inputs.after):
        assert [(p.prompt_id, p.text) for p in side.prompts] == [(0, "short"), (2, "also short")]


def test_judges_read_the_prompt_from_the_last_marker_on(evaluate_args, made, tmp_path):
    rows = [{"prompt": "a Review: of Review: the boat"}, {"prompt": "why Review:  not"}]
    data = write_jsonl(tmp_path / "p.jsonl", rows)
    flags = {"data_path": [str(data)], "judge_text": "prompt_and_response"}
    cut = read_inputs(evaluate_args(**flags, judge_text_after="Review:"))
    assert cut.given == ["the boat", "not"]
    assert read_inputs(evaluate_args(**flags)).given == [row["prompt"] for row in rows]
    assert read_inputs(evaluate_args(data_path=[str(data)])).given is None


def test_groups_are_the_field_or_the_prompt_itself(evaluate_args):
    assert set(read_inputs(evaluate_args(group_by="place")).groups) == {f"p{n}" for n in range(5)}
    inputs = read_inputs(evaluate_args())
    assert inputs.groups == inputs.texts


def test_comparisons_may_be_an_export_with_its_own_way_of_counting(evaluate_args, tmp_path):
    both = [annotation(1, 7, chosen("left")), annotation(2, 8, chosen("right"))]
    third = annotation(3, 9, chosen("left"))
    export = write(tmp_path, [task(1, *both, third), task(2, annotation(4, 7, chosen("right")))])
    soft = read_inputs(evaluate_args(comparisons_path=[export])).comparisons
    assert [pair.label for group in soft for pair in group.pairs] == [pytest.approx(2 / 3), 1.0]
    flags = {"comparisons_path": [export], "votes": "majority"}
    (first, second) = read_inputs(evaluate_args(**flags)).comparisons
    assert [pair.label for pair in (*first.pairs, *second.pairs)] == [1.0, 1.0]
    with pytest.raises(UserError, match="--annotator_error"):
        evaluate_args(annotator_error="2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before": "{made}/reward"}, "--before: .*/reward holds a reward model"),
        ({"after": "{made}/nowhere"}, "--after: no model in"),
        ({"reward_model_name_or_path": "{made}/before"}, "--reward_model.* not a reward model"),
        ({"after": "{made}/other_words"}, "tokenizers of .*other_words and .*reward differ"),
        ({"max_new_tokens": 60}, "sequences of 96 tokens, but the model has 64 positions"),
        ({"max_prompt_length": 3}, "prompts.jsonl:1: the prompt has .* --max_prompt_length 3"),
        ({"group_by": "movie"}, "prompts.jsonl:1: no field 'movie' .* the row has place"),
        (
            {"judge_text": "prompt_and_response", "judge_text_after": "zzz"},
            "prompts.jsonl:1: the prompt has no 'zzz'",
        ),
        ({"judge": ["{made}/none.py"]}, "--judge .*none.py: no such file"),
        ({"data_path": ["{made}/none.jsonl"]}, "no such file"),
        ({"comparisons_path": ["{made}/prompts.jsonl"]}, "prompts.jsonl:1: a comparison needs"),
        ({"notes": "{made}/judge.py"}, "--notes: .* is not JSON"),
    ],
)
def test_a_wrong_input_is_one_line_before_any_model_is_loaded(
    evaluate_args, made, changes, message
):
    def filled(value):
        if isinstance(value, list):
            return [filled(item) for item in value]
        return value.format(made=made) if isinstance(value, str) else value

    with pytest.raises(UserError, match=message) as caught:
        read_inputs(evaluate_args(**{key: filled(value) for key, value in changes.items()}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": [], "reward_model_name_or_path": ""}, "nothing to compare with"),
        ({"best_of": [4], "reward_model_name_or_path": ""}, "--best_of needs"),
        ({"best_of": [4], "judge": []}, "--best_of needs"),
        ({"best_of": [1]}, "--best_of takes"),
        ({"best_of": [4, 4]}, "--best_of takes"),
        ({"comparisons_path": ["x"], "reward_model_name_or_path": ""}, "--comparisons_path"),
        ({"judge_text_after": "Review:"}, "--judge_text_after"),
        ({"labels": ["one"]}, "--labels takes two names"),
        ({"prompt_template": "no place"}, "--prompt_template"),
        ({"top_p": 0.0}, "--top_p"),
        ({"max_prompt_length": 0}, "--max_prompt_length"),
    ],
)
def test_flags_that_cannot_be_are_refused(evaluate_args, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate_args(**changes)


def test_a_run_that_has_not_finished_is_refused(evaluate_args, made, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for file in (made / "after").iterdir():
        (unfinished / file.name).write_bytes(file.read_bytes())
    (unfinished / "args.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="has not finished"):
        read_inputs(evaluate_args(after=str(unfinished)))
