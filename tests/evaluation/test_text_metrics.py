import pytest

from training.evaluation.text_metrics import (
    compute_duplicate_rate,
    compute_mean_length,
    count_words,
    distinct_n,
    is_counted_in_characters,
    split_words,
)


def test_words_are_what_spaces_separate():
    assert compute_mean_length(["one two  three", "", " it's\nfine "]) == pytest.approx(5 / 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("房间很小，吵！！", ["房", "间", "很", "小，", "吵！！"]),
        (
            "用T60玩 World of Warcraft 很流畅",
            ["用", "T60", "玩", "World", "of", "Warcraft", *"很流畅"],
        ),
        ("とてもいい", list("とてもいい")),
        ("“好”", ["“", "好”"]),
        ("\u3000好\u3000", ["好"]),
        ("𠮷", ["𠮷"]),  # beyond 16 bits
        ("정말 좋은 영화", ["정말", "좋은", "영화"]),  # Korean has spaces
        ("", []),
    ],
)
def test_a_character_is_a_word_where_a_script_has_no_spaces(text, expected):
    assert split_words(text) == expected


def test_words_of_languages_with_spaces_are_what_split_gives():
    text = "It's a «fine» film - naïve, 3.5/5!  фильм\tшёл\n… (sic)"
    assert split_words(text) == text.split()


def test_distinct_2_of_chinese_counts_pairs_of_characters():
    # 很 好, 好 很, 很 好: two different among three
    assert distinct_n(["很好很好"], n=2, words=4) == pytest.approx(2 / 3)
    assert compute_mean_length(["很好很好", "差"]) == 2.5


def test_the_unit_is_what_most_words_are():
    assert is_counted_in_characters(["房间很小", "ok"])
    assert not is_counted_in_characters(["the word 好 in English"])
    assert not is_counted_in_characters([])


def test_distinct_2_of_a_case_counted_by_hand():
    # a b, b a, a b | b a: two different among four
    assert distinct_n(["a b a b", "b a"], n=2, words=6) == 0.5


def test_no_pair_of_words_reaches_across_texts():
    assert distinct_n(["a b", "c d"], n=2, words=4) == 1.0
    assert distinct_n(["a", "b", "c"], n=2, words=3) == 0.0


def test_words_beyond_the_limit_are_not_counted():
    assert distinct_n(["a b c", "a b a b a b"], n=2, words=3) == 1.0
    assert distinct_n(["a b a b a b"], n=2, words=3) == distinct_n(["a b a"], n=2, words=9)


def test_case_does_not_make_words_distinct():
    assert distinct_n(["The end", "the END"], n=2, words=4) == 0.5


def test_a_model_that_says_one_thing_has_next_to_no_variety():
    texts = ["fine acting and " * 8] * 100
    assert distinct_n(texts, n=2, words=count_words(texts)) < 0.01


def test_texts_that_repeat_an_earlier_one_are_duplicates():
    assert compute_duplicate_rate(["A fine film.", "a fine  film. ", "another", "x"]) == 0.25
    assert compute_duplicate_rate(["a", "b"]) == 0.0


def test_no_texts_at_all_are_refused():
    with pytest.raises(ValueError, match="at least one text"):
        compute_duplicate_rate([])
    with pytest.raises(ValueError, match="at least one text"):
        compute_mean_length([])
