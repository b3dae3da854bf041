import numpy as np
import pytest

from training.data import contamination
from training.data.contamination import (
    HeldOutNGrams,
    extract_prompt,
    find_shared_texts,
    hash_prompt,
)
from training.data.records import (
    Text,
    parse_conversation,
    parse_group,
    parse_prompt,
    parse_sft_row,
)

HELD = "The quick brown fox jumps over the lazy dog while seven old men watch quietly."  # 14 words
WORDS = HELD.split()


def test_case_and_white_space_make_no_difference_to_a_digest():
    assert hash_prompt("What  is\nRAIN?") == hash_prompt(" what is rain? ")
    assert hash_prompt("what is rain") != hash_prompt("what is rain?")
    assert 0 <= hash_prompt("x") < 2**64


@pytest.mark.parametrize(
    ("text", "is_shared"),
    [
        (HELD, True),
        ("before " + HELD.upper() + " and after", True),
        ("the quick: brown, fox; jumps over THE lazy dog - while seven old men watch!", True),
        (" ".join(WORDS[1:]), True),  # 13 words
        (" ".join(WORDS[1:13]), False),  # 12 words
        (" ".join([*WORDS[:12], "not", *WORDS[12:]]), False),
        (" ".join(reversed(WORDS)), False),
        ("", False),
        ("something else altogether " * 10, False),
    ],
)
def test_thirteen_words_in_a_row_are_shared(text, is_shared):
    assert find_shared_texts([text, "unrelated"], [HELD]) == ([0] if is_shared else [])


def test_runs_that_many_training_texts_have_count_for_nothing():
    licence = " ".join(f"word{n}" for n in range(13))
    many = [f"{licence} {n}" for n in range(contamination.COMMON)]
    assert find_shared_texts(many, [licence]) == list(range(contamination.COMMON))
    assert find_shared_texts([*many, f"{licence} one more"], [licence]) == []


def test_chinese_characters_are_words():
    held = "今天下午我们去公园看见了两只白色的猫"
    assert find_shared_texts(["昨天" + held[2:17] + "。", held[:12]], [held]) == [0]


def test_the_fast_search_finds_what_comparing_all_runs_finds():
    draw = np.random.default_rng(0)
    train, held = ([" ".join(f"w{n}" for n in draw.integers(0, 2, 40)) for _ in range(30)]
                   for _ in range(2))  # fmt: skip

    def runs(text):
        words = text.split()
        return {tuple(words[n : n + 13]) for n in range(len(words) - 12)}

    known = set().union(*map(runs, held))
    found = HeldOutNGrams(held)
    shared = [len(runs(text) & known) for text in train]
    assert [len(found.find_in(text)) for text in train] == shared
    assert sum(bool(runs(text) & known) for text in train) > 0


def test_nothing_is_shared_with_nothing():
    assert find_shared_texts([HELD], []) == []
    assert find_shared_texts([], [HELD]) == []
    assert find_shared_texts([HELD], ["too short"]) == []


def test_the_question_of_a_record_is_its_prompt_or_text():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert extract_prompt(parse_sft_row({"prompt": "q", "response": "a"}, "x:1")) == "q"
    assert extract_prompt(parse_conversation({"messages": turns}, "x:1")) == "q"
    assert (
        extract_prompt(parse_group({"prompt": "q", "chosen": "a", "rejected": "b"}, "x:1")) == "q"
    )
    assert extract_prompt(parse_prompt({"prompt": "q"}, "x:1")) == "q"
    assert extract_prompt(Text("t", "x:1")) == "t"
