"""Tables of encoded rows: cached or not they are the same, and keyed by all that matters."""

from typing import Any

import pytest

from tests.data.datasets import ROWS, demos, entries, load, pairs, write
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data import cache, tables
from training.data.batches import plan_epoch
from training.data.build_tables import hash_tokenizer
from training.data.records import Pair
from training.data.stages import (
    load_normalization_prompts,
    load_prompts,
    load_sft,
)


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


@pytest.mark.parametrize("kind", ROWS)
def test_cached_or_not_rows_and_batches_are_the_same(tmp_path, cache_dir, tokenizer, kind):
    path = write(tmp_path, "data.jsonl", ROWS[kind](150))
    plain = load(kind, path, tokenizer, data_cache=False, eval_fraction=0.2)
    assert not cache_dir.exists()
    written = load(kind, path, tokenizer, eval_fraction=0.2)
    count = len(entries(cache_dir))
    read = load(kind, path, tokenizer, eval_fraction=0.2)
    assert len(entries(cache_dir)) == count >= 1
    for side in ("train", "held_out"):
        rows = [list(getattr(data, side)) for data in (plain, written, read)]
        assert rows[0] == rows[1] == rows[2] != []
    batches = [plan_epoch(data.train.lengths, 8, seed=3, epoch=2) for data in (plain, read)]
    assert batches[0] == batches[1]


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
    tmp_path, cache_dir, tokenizer, changes, is_new
):
    common: dict[str, Any] = {"data_path": [write(tmp_path, "data.jsonl", demos(20))]}
    load_sft(SFTArgs(**common), tokenizer)
    load_sft(SFTArgs(**common, **changes), tokenizer)
    assert len(entries(cache_dir)) == 1 + is_new


def test_the_key_holds_the_content_not_the_name(tmp_path, cache_dir, tokenizer):
    first = write(tmp_path, "first.jsonl", pairs(5))
    load("pairs", first, tokenizer)
    second = write(tmp_path, "second.jsonl", pairs(5))
    data = load("pairs", second, tokenizer)
    assert len(entries(cache_dir)) == 1
    assert {group.source for group in data.train} <= {f"{second}:{n}" for n in range(1, 7)}
    write(tmp_path, "second.jsonl", pairs(6))
    assert len(load("pairs", second, tokenizer, eval_fraction=0.0).train) == 7
    assert len(entries(cache_dir)) == 2


def test_comparisons_come_back_from_the_cache_with_all_their_columns(tmp_path, tokenizer):
    path = write(tmp_path, "data.jsonl", pairs(2))
    for _ in range(2):  # written, then read
        groups = load("pairs", path, tokenizer, eval_fraction=0.0).train
        assert [group.pairs for group in groups] == [
            (Pair(0, 1, margin=0.0, votes=(("0", 1.0),)),),
            (Pair(0, 1, margin=0.125, votes=(("1", 1.0),)),),
            (Pair(0, 1, 0.7, gap=1.0),
             Pair(2, 3, weight=2.0, votes=(("ann", 1.0), ("bob", 0.5)))),
        ]  # fmt: skip


def test_a_table_of_other_columns_is_another_entry(tmp_path, cache_dir, tokenizer, monkeypatch):
    path = write(tmp_path, "data.jsonl", pairs(2))
    load("pairs", path, tokenizer)
    monkeypatch.setitem(tables.COMMON, "more", tables.COMMON["key"])
    load("pairs", path, tokenizer)
    assert len(entries(cache_dir)) == 2


def test_another_tokenizer_has_another_digest(tokenizer, chat_tokenizer):
    import copy

    with_template = copy.deepcopy(tokenizer)
    assert hash_tokenizer(with_template) == hash_tokenizer(tokenizer)
    with_template.chat_template = "{{ messages }}"
    digests = {hash_tokenizer(t) for t in (tokenizer, chat_tokenizer, with_template)}
    assert len(digests) == 3


def test_a_damaged_cache_changes_nothing_but_a_line_in_the_log(
    tmp_path, cache_dir, tokenizer, caplog
):
    path = write(tmp_path, "data.jsonl", pairs(30))
    before = list(load("pairs", path, tokenizer).train)
    (entry,) = entries(cache_dir)
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 255
    entry.write_bytes(bytes(content))
    assert list(load("pairs", path, tokenizer).train) == before
    assert "is damaged" in caplog.text


def test_a_bad_row_is_named_and_leaves_no_entry(tmp_path, cache_dir, tokenizer):
    path = write(tmp_path, "data.jsonl", [*demos(600), {"prompt": "p"}])
    with pytest.raises(UserError, match=r"data\.jsonl:601: a demonstration needs"):
        load("demos", path, tokenizer)
    assert entries(cache_dir) == []


def test_stage_3_has_its_fields_though_stage_2_cached_the_same_prompts_without(tmp_path, tokenizer):
    path = write(tmp_path, "data.jsonl", [{"prompt": f"p{n}", "film": "f"} for n in range(9)])
    args = RewardArgs(data_path=[path], max_length=100, normalization_new_tokens=36)
    assert load_normalization_prompts(args, tokenizer)[0].fields == {}
    asked = PPOArgs(data_path=[path], max_prompt_length=64, overlong_prompts="drop")
    assert load_prompts(asked, tokenizer).train[0].fields == {"film": "f"}


def test_a_file_that_changes_while_it_is_read_is_an_error(
    tmp_path, cache_dir, tokenizer, monkeypatch
):
    path = write(tmp_path, "data.jsonl", demos(5))
    as_it_was = cache._write

    def meanwhile(file, make):
        write(tmp_path, "data.jsonl", demos(6))
        as_it_was(file, make)

    monkeypatch.setattr(cache, "_write", meanwhile)
    with pytest.raises(UserError, match=r"data\.jsonl: changed while it was read; run again"):
        load("demos", path, tokenizer)
    assert entries(cache_dir) == []
