"""Find training rows that share a prompt or text with held-out data.

Two prompts are equal if they differ only in case and white space. A plain text is shared if it is
equal in that sense, or if it has NGRAM words in a row in common with a held-out text, the rule of
GPT-3 (arXiv:2005.14165, appendix C); as there, runs of words in more than COMMON training texts do
not count (licences, names, quotations).
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
    """Return what must not be on both sides of a split: a record's prompt, or its text."""
    if isinstance(record, Conversation):
        return next(turn.content for turn in record.messages if turn.role == "user")
    if isinstance(record, Demonstration | ResponseGroup):
        return record.prompt
    return record.text


def hash_prompt(text: str) -> int:
    """Hash a text to 64 bits, ignoring case and white space."""
    return hash_text(" ".join(text.lower().split()))


def hash_text(text: str) -> int:
    """Hash a text to 64 bits."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class HeldOutNGrams:
    """All runs of NGRAM words in held-out texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._numbers: dict[str, int] = {}  # of words, from 1
        hashes = [np.empty(0, np.uint64)]
        for text in texts:
            words = _split_words(text)
            for word in words:
                self._numbers.setdefault(word, len(self._numbers) + 1)
            hashes.append(_hash_runs([self._numbers[word] for word in words]))
        self._known = np.unique(np.concatenate(hashes))

    def find_in(self, text: str) -> NDArray[np.int64]:
        """Return the numbers of the held-out runs of words that this text has too, each once."""
        if not len(self._known):
            return np.empty(0, np.int64)
        hashes = np.unique(_hash_runs([self._numbers.get(word, 0) for word in _split_words(text)]))
        indices = np.searchsorted(self._known, hashes).clip(max=len(self._known) - 1)
        return np.asarray(indices[self._known[indices] == hashes], np.int64)


def find_shared_texts(train: Iterable[str], held_out: Iterable[str]) -> list[int]:
    """Return the indices of training texts that share NGRAM words in a row with a held-out one."""
    held_out_runs = HeldOutNGrams(held_out)
    runs_of: dict[int, list[int]] = {}
    texts_with: Counter[int] = Counter()
    for index, text in enumerate(train):
        runs = held_out_runs.find_in(text).tolist()
        if runs:
            runs_of[index] = runs
            texts_with.update(runs)
    return [index for index, runs in runs_of.items() if any(texts_with[r] <= COMMON for r in runs)]


def _split_words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _hash_runs(words: list[int]) -> NDArray[np.uint64]:
    """Hash each run of NGRAM words; runs with an unknown word (0) are skipped."""
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
