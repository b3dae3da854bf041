"""What a decoder is, and what generation returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class Decoder(Protocol):
    """Computes next-token logits for rows that grow by one token a step.

    Rows live in slots. The first n slots are decoded; the scheduler keeps them filled.
    """

    # Whether rows are independent and all tensors stay where they are: new rows may then be
    # admitted beside others, and a step may be recorded as a CUDA graph.
    is_static: bool
    # Whether `load` brings matrices into the type and order that it multiplies them in.
    casts_weights: bool

    def load(self, model: nn.Module) -> None:
        """Take the current weights of a plain model; called once a rollout."""

    def begin(self, slots: int, capacity: int) -> bool:
        """Make room for `slots` rows of at most `capacity` tokens; whether tensors have moved."""

    def admit(self, prompts: Sequence[Sequence[int]], slots: Tensor) -> Tensor:
        """Put m prompts into the slots [m]; logits [m, V] after each one's last token.

        Equal prompts beside each other are computed once.
        """

    def step(self, tokens: Tensor, context: int) -> Tensor:
        """Append one token to each of the first n slots [n]; logits [n, V] of the next.

        No row has more than `context` tokens after that.
        """

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the rows in these slots only, in this order, as the first slots."""

    def release(self) -> None:
        """Free what may be freed until the next `load`; called at the end of each rollout."""


@dataclass(frozen=True)
class Responses:
    """What was generated: B responses of up to T tokens, right-padded.

    tokens [B, T] long (PAD after the end), mask [B, T] bool (EOS counts); logprobs and entropies
    [B, T] fp32, 0 at padding, of the distribution at the sampling temperature.
    """

    tokens: Tensor
    mask: Tensor
    logprobs: Tensor
    entropies: Tensor

    @property
    def lengths(self) -> Tensor:  # [B]
        return self.mask.sum(dim=1)

    def row(self, index: int) -> list[int]:
        """The token ids of one response, its EOS included if it has one."""
        ids: list[int] = self.tokens[index, : int(self.lengths[index])].tolist()
        return ids
