"""Sequences whose items are made when they are asked for."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class Lazy(Sequence[T]):
    """A sequence from its length and `make_item`; a slice is a list."""

    @abstractmethod
    def make_item(self, index: int) -> T:
        """Make the item at an index from 0 to the length."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        indices = range(len(self))[index]
        if isinstance(indices, int):
            return self.make_item(indices)
        return [self.make_item(each) for each in indices]
