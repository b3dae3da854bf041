import json
from typing import Any

import pytest

from training.arguments.parsing import UserError
from training.arguments.sft import SFTArgs
from training.models.tokenizers import load_tokenizer
from training.trainers.sft.setup import load_or_train_tokenizer

ROWS: dict[str, list[dict[str, Any]]] = {
    "response": [
        {"prompt": f"问题{n}:", "response": f"这个电影很好看, 第{n}次 was good"} for n in range(40)
    ],
    "lm": [{"text": f"很久以前有一个国王\n他有{n}个孩子"} for n in range(40)],
}


def flags(folder, objective, **changes) -> SFTArgs:
    config = folder / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_layer": 1}))
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[objective]))
    return SFTArgs(
        data_path=[str(data)],
        objective=objective,
        init_from_scratch=str(config),
        tokenizer="sentencepiece",
        vocab_size=330,
        **changes,
    )


@pytest.mark.parametrize("objective", ["response", "lm"])
def test_it_is_trained_on_the_stages_own_text(world, tmp_path, objective):
    tokenizer = load_or_train_tokenizer(flags(tmp_path, objective), world)
    for row in ROWS[objective]:
        for text in row.values():
            ids = tokenizer(text).input_ids
            assert tokenizer.decode(ids) == text
            assert len(ids) < len(text.encode()) / 1.5  # pieces, not bytes


def test_a_saved_one_has_the_same_ids_in_the_next_stage(world, tmp_path):
    tokenizer = load_or_train_tokenizer(flags(tmp_path, "response"), world)
    tokenizer.save_pretrained(tmp_path / "stage1")
    loaded = load_tokenizer(str(tmp_path / "stage1"), flag="")
    for row in ROWS["response"]:
        assert loaded(row["response"]).input_ids == tokenizer(row["response"]).input_ids
    assert (loaded.eos_token_id, loaded.pad_token_id) == (1, 2)


def test_a_bad_row_is_named_before_anything_is_trained(world, tmp_path):
    args = flags(tmp_path, "response")
    with open(args.data_path[0], "a") as file:
        file.write('{"prompt": "x"}\n')
    with pytest.raises(UserError, match=r"rows.jsonl:41: a demonstration needs"):
        load_or_train_tokenizer(args, world)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"init_from_scratch": ""}, "--init_from_scratch"),
        ({"tokenizer_name_or_path": "x"}, "--tokenizer_name_or_path"),
        ({"vocab_size": 0}, "--vocab_size"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, changes, named):
    config = tmp_path / "config.json"
    config.write_text("{}")
    fields = {"tokenizer": "sentencepiece", "init_from_scratch": str(config)} | changes
    with pytest.raises(UserError, match=named):
        SFTArgs(**fields)
