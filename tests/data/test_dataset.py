"""From files to encoded rows: cached or not they are the same, mixed, split, and free of leaks."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.data.annotation import exports
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data import cache, tables
from training.data.batches import plan_epoch
from training.data.blocks import Blocks, measure_texts
from training.data.build_tables import hash_tokenizer
from training.data.encode import EncodedText, encode_dialogues, encode_texts
from training.data.records import Demonstration, Pair, Text
from training.data.stages import (
    load_comparisons,
    load_normalization_prompts,
    load_prompts,
    load_sft,
)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


def write(folder: Path, name: str, rows: list[Any]) -> str:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def texts(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"text": f"text {n} has a film and " + "a boat " * (n % 7)} for n in
            range(start, start + count)]  # fmt: skip


def demos(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"ask {n}", "response": f" answer {n} " + "x" * (n % 90)} for n in
            range(count)]  # fmt: skip


def pairs(count: int) -> list[dict[str, Any]]:
    two = [{"prompt": f"ask {n}", "chosen": f"good {n}", "rejected": "bad", "margin": n / 8,
            "annotator": n % 3} for n in range(count)]  # fmt: skip
    many = {"prompt": "many", "responses": ["a", "b", "c", "d"], "gaps": [1.0, None],
            "pairs": [[0, 1, 0.7], {"chosen": 2, "rejected": 3, "weight": 2,
                                    "votes": {"ann": 1, "bob": 0.5}}]}  # fmt: skip
    return [*two, many]


def entries(place: Path) -> list[Path]:
    return sorted(place.glob("*.arrow"))


def load(kind: str, path: str, tokenizer: Any, **changes: Any) -> Any:
    common: dict[str, Any] = {"data_path": [path], "output_dir": "/tmp/unused", **changes}
    if kind == "prompts":
        return load_prompts(PPOArgs(**common), tokenizer)
    if kind == "pairs":
        return load_comparisons(RewardArgs(max_length=64, **common), tokenizer)
    objective: Any = "lm" if kind == "texts" else "response"
    return load_sft(SFTArgs(max_length=64, objective=objective, **common), tokenizer)


ROWS = {"texts": texts, "demos": demos, "pairs": pairs, "prompts": demos}


@pytest.mark.parametrize("kind", ROWS)
def test_cached_or_not_rows_and_batches_are_the_same(tmp_path, place, tokenizer, kind):
    path = write(tmp_path, "data.jsonl", ROWS[kind](150))
    plain = load(kind, path, tokenizer, data_cache=False, eval_fraction=0.2)
    assert not place.exists()
    written = load(kind, path, tokenizer, eval_fraction=0.2)
    count = len(entries(place))
    read = load(kind, path, tokenizer, eval_fraction=0.2)
    assert len(entries(place)) == count >= 1
    for side in ("train", "held_out"):
        rows = [list(getattr(data, side)) for data in (plain, written, read)]
        assert rows[0] == rows[1] == rows[2] != []
    batches = [plan_epoch(data.train.lengths, 8, seed=3, epoch=2) for data in (plain, read)]
    assert batches[0] == batches[1]


def test_demonstrations_are_what_the_encoder_makes_of_them_in_order(tmp_path, tokenizer):
    rows = demos(700)  # more than are encoded together
    path = write(tmp_path, "data.jsonl", rows)
    data = load("demos", path, tokenizer, eval_fraction=0.0)
    records = [Demonstration(row["prompt"], row["response"], "x") for row in rows]
    outcomes = encode_dialogues(
        records, tokenizer, max_length=64, prompt_template="{prompt}", chat_template=None
    )
    assert list(data.train) == [outcome.row for outcome in outcomes]
    assert len(data.held_out) == 0
    assert any(outcome.cut for outcome in outcomes)


@pytest.mark.parametrize("block", [2, 7, 64, 5000])
def test_blocks_are_cut_from_all_texts_in_one_row(tmp_path, tokenizer, block):
    rows = texts(90)
    path = write(tmp_path, "data.jsonl", rows)
    args = SFTArgs(data_path=[path], objective="lm", max_length=block, eval_fraction=0.0)
    blocks = load_sft(args, tokenizer).train
    outcomes = encode_texts([Text(row["text"], "x") for row in rows], tokenizer)
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


@pytest.mark.parametrize(
    ("changes", "is_new"),
    [
        ({"max_length": 63}, True),
        ({"prompt_template": "Q: {prompt}"}, True),
        ({"seed": 5}, False),
        ({"eval_fraction": 0.5}, False),
        ({"data_weights": [2.0]}, False),
        ({"decontaminate": False}, False),
    ],
)
def test_the_key_holds_what_changes_the_rows_and_nothing_else(
    tmp_path, place, tokenizer, changes, is_new
):
    common: dict[str, Any] = {"data_path": [write(tmp_path, "data.jsonl", demos(20))]}
    load_sft(SFTArgs(**common), tokenizer)
    load_sft(SFTArgs(**common, **changes), tokenizer)
    assert len(entries(place)) == 1 + is_new


def test_the_key_holds_the_content_not_the_name(tmp_path, place, tokenizer):
    first = write(tmp_path, "first.jsonl", pairs(5))
    load("pairs", first, tokenizer)
    second = write(tmp_path, "second.jsonl", pairs(5))
    data = load("pairs", second, tokenizer)
    assert len(entries(place)) == 1
    assert {group.source for group in data.train} <= {f"{second}:{n}" for n in range(1, 7)}
    write(tmp_path, "second.jsonl", pairs(6))
    assert len(load("pairs", second, tokenizer, eval_fraction=0.0).train) == 7
    assert len(entries(place)) == 2


def test_comparisons_come_back_from_the_cache_with_all_that_was_said_of_them(tmp_path, tokenizer):
    path = write(tmp_path, "data.jsonl", pairs(2))
    for _ in range(2):  # written, then read
        groups = load("pairs", path, tokenizer, eval_fraction=0.0).train
        assert [group.pairs for group in groups] == [
            (Pair(0, 1, margin=0.0, votes=(("0", 1.0),)),),
            (Pair(0, 1, margin=0.125, votes=(("1", 1.0),)),),
            (Pair(0, 1, 0.7, gap=1.0),
             Pair(2, 3, weight=2.0, votes=(("ann", 1.0), ("bob", 0.5)))),
        ]  # fmt: skip


def test_a_table_of_other_columns_is_another_entry(tmp_path, place, tokenizer, monkeypatch):
    path = write(tmp_path, "data.jsonl", pairs(2))
    load("pairs", path, tokenizer)
    monkeypatch.setitem(tables.COMMON, "more", tables.COMMON["key"])
    load("pairs", path, tokenizer)
    assert len(entries(place)) == 2


@pytest.mark.parametrize(("others", "accounts"), [(False, 1), (True, 2)])
def test_the_account_of_an_export_is_logged_once(tmp_path, tokenizer, caplog, others, accounts):
    caplog.set_level(logging.INFO)
    tasks = [exports.task(n, exports.annotation(n, 7, exports.chosen("left"))) for n in range(1, 9)]
    path = exports.write(tmp_path, tasks)
    args = RewardArgs(data_path=[path], normalization_data_path=[path] if others else [])
    load_comparisons(args, tokenizer)
    load_normalization_prompts(args, tokenizer)
    assert caplog.text.count("8 annotations") == accounts


def test_another_tokenizer_has_another_digest(tokenizer, chat_tokenizer):
    import copy

    with_template = copy.deepcopy(tokenizer)
    assert hash_tokenizer(with_template) == hash_tokenizer(tokenizer)
    with_template.chat_template = "{{ messages }}"
    digests = {hash_tokenizer(t) for t in (tokenizer, chat_tokenizer, with_template)}
    assert len(digests) == 3


def test_a_damaged_cache_changes_nothing_but_a_line_in_the_log(tmp_path, place, tokenizer, caplog):
    path = write(tmp_path, "data.jsonl", pairs(30))
    before = list(load("pairs", path, tokenizer).train)
    (entry,) = entries(place)
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 255
    entry.write_bytes(bytes(content))
    assert list(load("pairs", path, tokenizer).train) == before
    assert "is damaged" in caplog.text


def test_a_bad_row_is_named_and_leaves_no_entry(tmp_path, place, tokenizer):
    path = write(tmp_path, "data.jsonl", [*demos(600), {"prompt": "p"}])
    with pytest.raises(UserError, match=r"data\.jsonl:601: a demonstration needs"):
        load("demos", path, tokenizer)
    assert entries(place) == []


def test_weights_repeat_rows_of_their_own_path(tmp_path, tokenizer):
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


def test_prompts_keep_their_fields_and_are_known_by_their_place(tmp_path, tokenizer):
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


def test_stage_3_has_its_fields_though_stage_2_cached_the_same_prompts_without(tmp_path, tokenizer):
    path = write(tmp_path, "data.jsonl", [{"prompt": f"p{n}", "film": "f"} for n in range(9)])
    args = RewardArgs(data_path=[path], max_length=100, normalization_new_tokens=36)
    assert load_normalization_prompts(args, tokenizer)[0].fields == {}
    asked = PPOArgs(data_path=[path], max_prompt_length=64, overlong_prompts="drop")
    assert load_prompts(asked, tokenizer).train[0].fields == {"film": "f"}


HELD = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_training_prompts_that_are_held_out_are_left_out_and_counted(tmp_path, tokenizer, caplog):
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
def test_texts_that_share_words_with_held_out_ones_are_left_out(
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


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, place, tokenizer, monkeypatch):
    path = write(tmp_path, "data.jsonl", demos(5))
    as_it_was = cache._write

    def meanwhile(file, make):
        write(tmp_path, "data.jsonl", demos(6))
        as_it_was(file, make)

    monkeypatch.setattr(cache, "_write", meanwhile)
    with pytest.raises(UserError, match=r"data\.jsonl: changed while it was read; run again"):
        load("demos", path, tokenizer)
    assert entries(place) == []
