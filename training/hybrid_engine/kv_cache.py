"""Keys and values of a batch, in memory that is allocated once a batch."""

import torch
from torch import Tensor


class KVCache:
    """Per layer keys and values [B, heads, slots, head size], filled slot by slot.

    Prompts are right-padded and fill the first slots; every row's t-th new token goes to the same
    slot. What padding left in a prompt's slots is hidden by `bias`.
    """

    def __init__(
        self, layers: int, mask: Tensor, new_tokens: int, heads: int, size: int, dtype: torch.dtype
    ) -> None:
        batch, width = mask.shape
        shape = (layers, batch, heads, width + new_tokens, size)
        self.keys = torch.zeros(shape, dtype=dtype, device=mask.device)
        self.values = torch.zeros(shape, dtype=dtype, device=mask.device)
        self.lengths = mask.sum(dim=1)  # [B] real tokens so far: the next token's position
        self.filled = width
        bias = torch.zeros(batch, 1, 1, width + new_tokens, dtype=dtype, device=mask.device)
        hidden = ~mask[:, None, None, :]
        bias[..., :width] = bias[..., :width].masked_fill(hidden, torch.finfo(dtype).min)
        self.bias = bias

    def write_prompt(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store a prompt's keys and values [B, heads, P, size]."""
        self.keys[layer, :, :, : keys.shape[2]] = keys
        self.values[layer, :, :, : values.shape[2]] = values

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store one token's keys and values [B, heads, 1, size]; views of all up to it."""
        slot = self.filled
        self.keys[layer, :, :, slot : slot + 1] = keys
        self.values[layer, :, :, slot : slot + 1] = values
        return self.keys[layer, :, :, : slot + 1], self.values[layer, :, :, : slot + 1]

    def advance(self) -> None:
        """Count the token that every layer has appended."""
        self.filled += 1
        self.lengths = self.lengths + 1

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these [n]."""
        self.keys = self.keys.index_select(1, rows)
        self.values = self.values.index_select(1, rows)
        self.lengths = self.lengths[rows]
        self.bias = self.bias[rows]
