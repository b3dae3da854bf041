"""From files to encoded rows: mixed by weight, split, numbered and free of leaks."""

import logging
from typing import Any

import pytest

from tests.data.annotation import exports
from tests.data.datasets import demos, load, pairs, texts, write
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data.chat import TemplateTokenizer
from training.data.encode import EncodedText, encode_dialogues, encode_texts
from training.data.records import Demonstration, Text
from training.data.stages import (
    load_comparisons,
    load_normalization_prompts,
    load_prompts,
    load_sft,
)
from training.data.tables import Blocks, measure_texts


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


def test_demonstrations_are_encoded_in_their_order(tmp_path, tokenizer):
    rows = demos(700)  # more than are encoded together
    path = write(tmp_path, "data.jsonl", rows)
    data = load("demos", path, tokenizer, eval_fraction=0.0)
    records = [Demonstration(row["prompt"], row["response"], "x") for row in rows]
    outcomes = encode_dialogues(records, TemplateTokenizer(tokenizer), max_length=64)
    assert list(data.train) == [outcome.row for outcome in outcomes]
    assert len(data.held_out) == 0
    assert any(outcome.cut for outcome in outcomes)


@pytest.mark.parametrize("block", [2, 7, 64, 5000])
def test_blocks_are_cut_from_all_texts_in_one_row(tmp_path, tokenizer, block):
    rows = texts(90)
    path = write(tmp_path, "data.jsonl", rows)
    args = SFTArgs(data_path=[path], objective="lm", max_length=block, eval_fraction=0.0)
    blocks = load_sft(args, tokenizer).train
    outcomes = encode_texts([Text(row["text"], "x") for row in rows], TemplateTokenizer(tokenizer))
    whole = [token for outcome in outcomes if outcome.row for token in outcome.row.input_ids]
    cut = [whole[start : start + block] for start in range(0, len(whole), block)]
    expected = [EncodedText(ids, [False] + [True] * (len(ids) - 1)) for ids in cut if len(ids) > 1]
    assert list(blocks) == expected
    assert [blocks[-1], blocks[: len(expected)]] == [expected[-1], expected]
    assert measure_texts(blocks) == measure_texts(expected)
    with pytest.raises(IndexError):
        blocks[len(expected)]


def test_a_block_of_one_token_predicts_nothing(tmp_path, tokenizer):
    data = load("demos", write(tmp_path, "data.jsonl", demos(2)), tokenizer)
    with pytest.raises(ValueError, match="block"):
        Blocks(data.train, 1)


@pytest.mark.parametrize(("others", "accounts"), [(False, 1), (True, 2)])
def test_the_account_of_an_export_is_logged_once(tmp_path, tokenizer, caplog, others, accounts):
    caplog.set_level(logging.INFO)
    tasks = [exports.task(n, exports.annotation(n, 7, exports.chosen("left"))) for n in range(1, 9)]
    path = exports.write(tmp_path, tasks)
    args = RewardArgs(data_path=[path], normalization_data_path=[path] if others else [])
    load_comparisons(args, tokenizer)
    load_normalization_prompts(args, tokenizer)
    assert caplog.text.count("8 annotations") == accounts


def test_a_weight_repeats_the_rows_of_its_path(tmp_path, tokenizer):
    first = write(tmp_path, "first.jsonl", [{"prompt": f"a{n}"} for n in range(10)])
    second = write(tmp_path, "second.jsonl", [{"prompt": f"b{n}"} for n in range(10)])
    args = PPOArgs(data_path=[first, second], data_weights=[2.0, 0.5], eval_fraction=0.0)
    rows = load_prompts(args, tokenizer).train
    words = [row.text for row in rows]
    assert words[:20] == [f"a{n}" for n in range(10)] * 2
    assert len(words) == 25
    assert words[20:] == sorted(words[20:])
    assert set(words[20:]) < {f"b{n}" for n in range(10)}
    assert [row.prompt_id for row in rows] == list(range(25))


def test_the_half_that_a_weight_takes_is_the_same_under_another_path(tmp_path, tokenizer):
    rows = [{"prompt": f"p{n}"} for n in range(40)]
    (tmp_path / "elsewhere").mkdir()
    paths = [
        write(tmp_path, "data.jsonl", rows),
        write(tmp_path / "elsewhere", "other.jsonl", rows),
    ]
    halves = []
    for path in paths:
        args = PPOArgs(data_path=[path], data_weights=[0.5], eval_fraction=0.0)
        halves.append([row.text for row in load_prompts(args, tokenizer).train])
    assert halves[0] == halves[1]
    assert len(halves[0]) == 20


def test_prompts_keep_their_fields_and_are_numbered_in_the_data(tmp_path, tokenizer):
    rows = [{"prompt": f"p{n}", "film": f"f{n}", "year": n} for n in range(50)]
    data = load_prompts(
        PPOArgs(data_path=[write(tmp_path, "data.jsonl", rows)], eval_fraction=0.3), tokenizer
    )
    every = [*data.train, *data.held_out]
    assert sorted(row.prompt_id for row in every) == list(range(50))
    assert all(
        (row.text, row.fields) == (f"p{row.prompt_id}", {"film": f"f{row.prompt_id}"})
        for row in every
    )


def test_normalization_prompts_are_distinct_and_need_room(tmp_path, tokenizer):
    dialogue = "\n\nHuman: hi\n\nAssistant:"
    rows = [*pairs(3), *pairs(3), {"chosen": dialogue + " a", "rejected": dialogue + " b"}]
    args = RewardArgs(data_path=[write(tmp_path, "data.jsonl", rows)], max_length=100)
    prompts = load_normalization_prompts(args, tokenizer)
    assert [prompt.text for prompt in prompts] == ["ask 0", "ask 1", "ask 2", "many", dialogue]
    assert [prompt.prompt_id for prompt in prompts] == [0, 1, 2, 3, 8]
    args = RewardArgs(data_path=args.data_path, max_length=40, normalization_new_tokens=40)
    with pytest.raises(UserError, match="--normalization_new_tokens 40 leaves no prompt room"):
        load_normalization_prompts(args, tokenizer)


HELD = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_training_prompts_that_are_held_out_are_dropped_and_counted(tmp_path, tokenizer, caplog):
    caplog.set_level(logging.INFO)
    train = write(tmp_path, "a.jsonl", [{"prompt": p} for p in ("What is RAIN?", "snow", "wind")])
    held = write(tmp_path, "b.jsonl", [{"prompt": "what  is rain?"}, {"prompt": "hail"}])
    common: dict[str, Any] = {"data_path": [train], "eval_data_path": [held]}
    data = load_prompts(PPOArgs(**common), tokenizer)
    assert [row.text for row in data.train] == ["snow", "wind"]
    assert [row.prompt_id for row in data.held_out] == [3, 4]
    assert "1 training rows left out: their prompt is held out" in caplog.text
    everything = load_prompts(PPOArgs(**common, decontaminate=False), tokenizer)
    assert len(everything.train) == 3
    with pytest.raises(UserError, match="nothing to train"):
        load_prompts(PPOArgs(data_path=[held], eval_data_path=[held]), tokenizer)


@pytest.mark.parametrize("data_cache", [True, False])
def test_texts_that_share_words_with_held_out_ones_are_dropped(
    tmp_path, tokenizer, caplog, data_cache
):
    caplog.set_level(logging.INFO)
    rows = [{"text": t} for t in ("a film", f"so {HELD.upper()}!", HELD[:40], "a boat")]
    train = write(tmp_path, "a.jsonl", rows)
    held = write(tmp_path, "b.jsonl", [{"text": HELD}])
    common: dict[str, Any] = {"data_path": [train], "eval_data_path": [held], "objective": "lm",
              "max_length": 1000, "data_cache": data_cache}  # fmt: skip
    for _ in range(2):
        (block,) = load_sft(SFTArgs(**common), tokenizer).train
        words = tokenizer.decode(block.input_ids).split("<|endoftext|>")
        assert words == ["a film", HELD[:40], "a boat", ""]
    assert caplog.text.count("1 training texts left out: 13 words in a row are held out") == 2
    (block,) = load_sft(SFTArgs(**common, decontaminate=False), tokenizer).train
    assert tokenizer.decode(block.input_ids).count("<|endoftext|>") == 4


def test_a_split_of_one_file_shares_no_words_either(tmp_path, tokenizer):
    rows = [{"text": f"{HELD} {n}"} for n in range(8)] + texts(200)
    args = SFTArgs(data_path=[write(tmp_path, "a.jsonl", rows)], objective="lm", max_length=10**6,
                   eval_fraction=0.3)  # fmt: skip
    data = load_sft(args, tokenizer)
    trained, held = (tokenizer.decode(side[0].input_ids) for side in (data.train, data.held_out))
    assert held.count(HELD) > 0
    assert trained.count(HELD) == 0
