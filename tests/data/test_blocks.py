"""Texts cut into blocks, by hand."""

from itertools import accumulate, chain, pairwise
from typing import Any, cast

import pytest

from training.data.tables import Blocks


class Texts:
    """A substitute for a table's rows, as `Blocks` uses them."""

    def __init__(self, texts: list[list[int]]) -> None:
        self._texts = texts
        self.lengths = [len(text) for text in texts]

    def __len__(self) -> int:
        return len(self._texts)

    def read_tokens(self, index: int, start: int, stop: int) -> list[int]:
        return self._texts[index][start:stop]


def blocks_of(texts: list[list[int]], block: int) -> Blocks:
    return Blocks(cast(Any, Texts(texts)), block)


def test_blocks_by_hand():
    blocks = blocks_of([[1, 2, 3], [4, 5], [6, 7]], block=3)
    assert [block.input_ids for block in blocks] == [[1, 2, 3], [4, 5, 6]]  # a lone 7 is no row
    assert [block.loss_mask for block in blocks] == [[False, True, True]] * 2
    assert blocks[1].input_ids == [4, 5, 6]
    assert len(blocks_of([], block=3)) == len(blocks_of([[1]], block=3)) == 0


@pytest.mark.parametrize("block", [2, 3, 7, 100])
def test_cutting_loses_at_most_one_token(block):
    ends = [0, *accumulate((5, 1, 17, 8))]
    texts = [list(range(first, end)) for first, end in pairwise(ends)]
    cut = list(chain.from_iterable(item.input_ids for item in blocks_of(texts, block)))
    assert cut in (list(range(31)), list(range(30)))
