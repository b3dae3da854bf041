"""Plain counts over responses: the guards beside a win rate. A word is what spaces separate."""

from collections.abc import Sequence


def word_count(texts: Sequence[str]) -> int:
    """All words of all texts."""
    return sum(len(text.split()) for text in texts)


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
        taken = text.lower().split()[:left]
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
