"""The interface of a decoder, and the responses that generation returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class Decoder(Protocol):
    """Computes next-token logits for rows that grow by one token per step.

    Each row has a slot. The first n slots are decoded; the scheduler keeps them filled.
    """

    # True if rows are independent and tensors never move: then rows may be admitted beside
    # others, and a step may be recorded as a CUDA graph.
    is_static: bool
    # True if `load` casts and reorders matrices for its products.
    casts_weights: bool

    def load(self, model: nn.Module) -> None:
        """Load the current weights of a plain model; called once per rollout."""

    def begin(self, slots: int, capacity: int) -> bool:
        """Make room for `slots` rows of at most `capacity` tokens. True if tensors have moved."""

    def admit(self, prompts: Sequence[Sequence[int]], slots: Tensor) -> Tensor:
        """Put m prompts into the slots [m]; returns logits [m, V] after their last tokens.

        Adjacent equal prompts are computed once.
        """

    def step(self, tokens: Tensor, context: int) -> Tensor:
        """Append one token to each of the first n slots [n]; returns logits [n, V] of the next.

        Afterwards no row has more than `context` tokens.
        """

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only the rows in these slots, in this order, as the first slots."""

    def release(self) -> None:
        """Free memory until the next `load`; called at the end of each rollout."""


@dataclass(frozen=True)
class Responses:
    """B generated responses of up to T tokens, right-padded.

    tokens [B, T] long (PAD after the end), mask [B, T] bool (True at EOS too); logprobs and
    entropies [B, T] fp32, 0 at padding, of the distribution at the sampling temperature.
    """

    tokens: Tensor
    mask: Tensor
    logprobs: Tensor
    entropies: Tensor

    @property
    def lengths(self) -> Tensor:  # [B]
        return self.mask.sum(dim=1)

    def row(self, index: int) -> list[int]:
        """Return the token ids of one response, including EOS if it has one."""
        ids: list[int] = self.tokens[index, : int(self.lengths[index])].tolist()
        return ids
