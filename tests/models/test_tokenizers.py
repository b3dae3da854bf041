import pytest
from transformers import AutoTokenizer

from tests.tiny_models import EOS, EOS_ID, build_tokenizer
from training.arguments.parsing import UserError
from training.models.tokenizers import (
    PAD_TOKEN,
    check_same_tokenizer,
    load_tokenizer,
)


def saved(folder, **options):
    build_tokenizer(**options).save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_without_pad_gets_one_and_keeps_every_other_token(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path, pad=None), flag="--x")
    before = AutoTokenizer.from_pretrained(tmp_path)
    assert before.pad_token_id is None
    assert tokenizer.get_vocab() == {**before.get_vocab(), PAD_TOKEN: len(before)}
    assert tokenizer.pad_token_id == len(before)
    assert tokenizer.eos_token_id == EOS_ID


def test_padding_with_eos_is_replaced(tmp_path):
    path = saved(tmp_path, pad=EOS)
    assert AutoTokenizer.from_pretrained(path).pad_token_id == EOS_ID
    tokenizer = load_tokenizer(path, flag="--x")
    assert tokenizer.eos_token_id == EOS_ID
    assert tokenizer.pad_token == PAD_TOKEN
    assert tokenizer.pad_token_id not in {EOS_ID, None}


def test_a_separate_pad_token_is_kept(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path, pad="w7"), flag="--x")
    assert tokenizer.pad_token_id == 7
    assert len(tokenizer) == len(build_tokenizer(pad=None))


def test_a_tokenizer_saved_with_its_new_pad_loads_equal(tmp_path):
    first = load_tokenizer(saved(tmp_path / "a", pad=None), flag="--x")
    first.save_pretrained(tmp_path / "b")
    again = load_tokenizer(str(tmp_path / "b"), flag="--x")
    assert again.pad_token_id == first.pad_token_id
    check_same_tokenizer(first, again, "a", "b")


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"--x: the tokenizer of .* has no EOS"):
        load_tokenizer(str(tmp_path), flag="--x")


def test_a_folder_without_a_tokenizer_gives_one_line_that_names_the_flag(tmp_path):
    with pytest.raises(UserError, match=r"--x: no tokenizer can be loaded from"):
        load_tokenizer(str(tmp_path), flag="--x")


def test_tokenizers_with_another_id_for_a_token_differ():
    ours, theirs = build_tokenizer(), build_tokenizer(pad="<p>")
    with pytest.raises(UserError, match="the tokenizers of a and b differ"):
        check_same_tokenizer(ours, theirs, "a", "b")


def test_tokenizers_with_another_eos_differ():
    ours, theirs = build_tokenizer(), build_tokenizer()
    theirs.eos_token = "w3"
    with pytest.raises(UserError, match="differ"):
        check_same_tokenizer(ours, theirs, "a", "b")
