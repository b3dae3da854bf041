"""Count words, repetitions and duplicates in responses.

Spaces separate words. Chinese and Japanese are written without spaces, so each character counts as
a word, together with the punctuation after it.
"""

import re
from collections.abc import Sequence

# Kana and the blocks of CJK ideographs, including those beyond 16 bits.
_CHARACTER = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_CHARACTER}][^\w\s]*|[^\s{_CHARACTER}]+")
_FIRST_CHARACTER = re.compile(f"[{_CHARACTER}]")


def split_words(text: str) -> list[str]:
    """Split a text into its words."""
    return _WORD.findall(text)


def is_counted_in_characters(texts: Sequence[str]) -> bool:
    """True if most words of these texts are single characters."""
    words = [word for text in texts for word in split_words(text)]
    characters = sum(_FIRST_CHARACTER.match(word) is not None for word in words)
    return 2 * characters > len(words)


def count_words(texts: Sequence[str]) -> int:
    return sum(len(split_words(text)) for text in texts)


def compute_mean_length(texts: Sequence[str]) -> float:
    """Return words per text."""
    if not texts:
        raise ValueError("the mean length needs at least one text")
    return count_words(texts) / len(texts)


def distinct_n(texts: Sequence[str], *, n: int, words: int) -> float:
    """Fraction of distinct n-grams among the first `words` words (arXiv:1510.03055).

    It falls with the number of words, so sides are compared over equally many. An n-gram never
    spans two texts. Without any n-gram: 0.
    """
    seen: set[tuple[str, ...]] = set()
    total, remaining = 0, words
    for text in texts:
        head = split_words(text.lower())[:remaining]
        remaining -= len(head)
        grams = [tuple(head[i : i + n]) for i in range(len(head) - n + 1)]
        seen.update(grams)
        total += len(grams)
        if remaining <= 0:
            break
    return len(seen) / total if total else 0.0


def compute_duplicate_rate(texts: Sequence[str]) -> float:
    """Return the fraction of texts that repeat an earlier one, ignoring case and spacing."""
    if not texts:
        raise ValueError("the duplicate rate needs at least one text")
    return 1.0 - len({" ".join(text.lower().split()) for text in texts}) / len(texts)
