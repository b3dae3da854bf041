"""Plain counts over responses: the guards beside a win rate.

A word is what spaces separate. Chinese and Japanese put no spaces between words, so each of their
characters counts as one; the punctuation after it belongs to it, as it does to a word elsewhere.
"""

import re
from collections.abc import Sequence

# Kana and the blocks of CJK ideographs, those beyond 16 bits included.
_CHARACTER = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_CHARACTER}][^\w\s]*|[^\s{_CHARACTER}]+")
_FIRST_CHARACTER = re.compile(f"[{_CHARACTER}]")


def split_words(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text)


def is_counted_in_characters(texts: Sequence[str]) -> bool:
    """Whether most words of these texts are single characters."""
    words = [word for text in texts for word in split_words(text)]
    characters = sum(_FIRST_CHARACTER.match(word) is not None for word in words)
    return 2 * characters > len(words)


def word_count(texts: Sequence[str]) -> int:
    """All words of all texts."""
    return sum(len(split_words(text)) for text in texts)


def words_mean(texts: Sequence[str]) -> float:
    """Words per text."""
    if not texts:
        raise ValueError("words_mean needs at least one text")
    return word_count(texts) / len(texts)


def distinct_n(texts: Sequence[str], *, n: int, words: int) -> float:
    """Different n-grams among all n-grams of the first `words` words (arXiv:1510.03055).

    The share falls as texts are added, so sides are compared over equal numbers of words. An
    n-gram lies inside one text. With no n-gram at all there is no variety: 0.
    """
    seen: set[tuple[str, ...]] = set()
    total, left = 0, words
    for text in texts:
        taken = split_words(text.lower())[:left]
        left -= len(taken)
        grams = [tuple(taken[i : i + n]) for i in range(len(taken) - n + 1)]
        seen.update(grams)
        total += len(grams)
        if left <= 0:
            break
    return len(seen) / total if total else 0.0


def duplicate_share(texts: Sequence[str]) -> float:
    """The share of texts that repeat an earlier one, case and spacing aside."""
    if not texts:
        raise ValueError("duplicate_share needs at least one text")
    return 1.0 - len({" ".join(text.lower().split()) for text in texts}) / len(texts)
