"""Plain texts in one row, cut into blocks of equal length for language-model training."""

from collections.abc import Sequence

import numpy as np

from training.data.encode import EncodedText
from training.data.lazy import Lazy
from training.data.tables import TableView


class Blocks(Lazy[EncodedText]):
    """All texts in one row, cut into blocks of `block` tokens; the last may be shorter.

    Every token is a target but a block's first, which nothing in its block predicts. A last block
    of one token is left out. A block is put together when it is asked for.
    """

    def __init__(self, texts: TableView[EncodedText], block: int) -> None:
        if block < 2:
            raise ValueError(f"block must be at least 2, got {block}")
        self._texts = texts
        self._block = block
        self._ends = np.cumsum(texts.lengths, dtype=np.int64)
        total = int(self._ends[-1]) if len(texts) else 0
        whole, rest = divmod(total, block)
        self.lengths = [block] * whole + [rest] * (rest >= 2)

    def __len__(self) -> int:
        return len(self.lengths)

    def make_item(self, place: int) -> EncodedText:
        ids = self._tokens(place * self._block, self.lengths[place])
        return EncodedText(ids, [False] + [True] * (len(ids) - 1))

    def _tokens(self, start: int, count: int) -> list[int]:
        """`count` tokens of the row of all texts."""
        text = int(np.searchsorted(self._ends, start, side="right"))
        ids: list[int] = []
        while len(ids) < count:
            first = start + len(ids) - (int(self._ends[text - 1]) if text else 0)
            ids += self._texts.read_tokens(text, first, first + count - len(ids))
            text += 1
        return ids


def measure_texts(texts: Sequence[EncodedText]) -> list[int]:
    """Tokens of each text."""
    if isinstance(texts, TableView | Blocks):
        return texts.lengths
    return [len(text.input_ids) for text in texts]
