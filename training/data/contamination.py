"""What training data must not share with held-out data, and which training rows share it.

A prompt is shared when it is the same but for case and white space. A plain text is shared when it
is the same in that sense, or when it has NGRAM words in a row with a held-out text in common, the
rule of GPT-3 (arXiv:2005.14165, appendix C); as there, runs of words that stand in more than
COMMON training texts count for nothing (licences, names, quotations).
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from training.data.records import Conversation, Demonstration, Record, ResponseGroup

NGRAM = 13
COMMON = 10

# A run of letters and digits; each character of scripts that write no spaces is a word.
_NO_SPACES = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_NO_SPACES}]|[^\\W{_NO_SPACES}]+")


def extract_prompt(record: Record) -> str:
    """The part of a record that must not be on both sides of a split: its prompt, or its text."""
    if isinstance(record, Conversation):
        return next(turn.content for turn in record.messages if turn.role == "user")
    if isinstance(record, Demonstration | ResponseGroup):
        return record.prompt
    return record.text


def hash_prompt(text: str) -> int:
    """64 bits of the text's hash, the same for texts that differ in case and white space alone."""
    return hash_text(" ".join(text.lower().split()))


def hash_text(text: str) -> int:
    """64 bits of the text's hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class HeldOutNGrams:
    """All runs of NGRAM words in held-out texts, and how many training texts have each."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._numbers: dict[str, int] = {}  # of words, from 1
        found = [np.empty(0, np.uint64)]
        for text in texts:
            words = _words(text)
            for word in words:
                self._numbers.setdefault(word, len(self._numbers) + 1)
            found.append(_hashes([self._numbers[word] for word in words]))
        self._known = np.unique(np.concatenate(found))

    def of(self, text: str) -> NDArray[np.int64]:
        """The numbers of the held-out runs of words that stand in this text too, each once."""
        if not len(self._known):
            return np.empty(0, np.int64)
        hashes = np.unique(_hashes([self._numbers.get(word, 0) for word in _words(text)]))
        places = np.searchsorted(self._known, hashes).clip(max=len(self._known) - 1)
        return np.asarray(places[self._known[places] == hashes], np.int64)


def find_shared_texts(train: Iterable[str], held_out: Iterable[str]) -> list[int]:
    """The places of the training texts that share NGRAM words in a row with a held-out one."""
    runs = HeldOutNGrams(held_out)
    found: dict[int, list[int]] = {}
    texts_with: Counter[int] = Counter()
    for place, text in enumerate(train):
        numbers = runs.of(text).tolist()
        if numbers:
            found[place] = numbers
            texts_with.update(numbers)
    return [p for p, numbers in found.items() if any(texts_with[n] <= COMMON for n in numbers)]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _hashes(words: list[int]) -> NDArray[np.uint64]:
    """One number for each run of NGRAM words; runs with an unknown word (0) are left out."""
    numbers = np.array(words, np.uint64)
    if len(numbers) < NGRAM:
        return np.empty(0, np.uint64)
    unknown = np.flatnonzero(numbers == 0)
    if np.diff(unknown, prepend=-1, append=len(numbers)).max() <= NGRAM:
        return np.empty(0, np.uint64)
    runs = sliding_window_view(numbers, NGRAM)
    runs = runs[(runs != 0).all(axis=1)]
    hashes = np.zeros(len(runs), np.uint64)
    for column in runs.T:
        hashes = (hashes ^ column) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2**64
        hashes ^= hashes >> np.uint64(29)
    return hashes
