"""Plain texts joined into one row and cut into blocks of equal length for language modelling."""

from collections.abc import Sequence

import numpy as np

from training.data.encode import EncodedText
from training.data.lazy import Lazy
from training.data.tables import TableView


class Blocks(Lazy[EncodedText]):
    """All texts in one row, cut into blocks of `block` tokens; the last may be shorter.

    Every token is a target but a block's first, which nothing in its block predicts, so a last
    block of one token is dropped.
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

    def make_item(self, index: int) -> EncodedText:
        start, count = index * self._block, self.lengths[index]
        text = int(np.searchsorted(self._ends, start, side="right"))
        ids: list[int] = []
        while len(ids) < count:
            first = start + len(ids) - (int(self._ends[text - 1]) if text else 0)
            ids += self._texts.read_tokens(text, first, first + count - len(ids))
            text += 1
        return EncodedText(ids, [False] + [True] * (count - 1))


def measure_texts(texts: Sequence[EncodedText]) -> list[int]:
    if isinstance(texts, TableView | Blocks):
        return texts.lengths
    return [len(text.input_ids) for text in texts]
