"""The cache of keys and values of all slots."""

import torch
from torch import Tensor

# On a CPU the cache grows by this many tokens at a time and is always read whole: a batched
# product of a slice would first copy the slice.
GROWTH = 32


class KVCache:
    """Per layer keys [slots, heads, size, capacity] and values [slots, heads, capacity, size].

    A row fills its slot from 0. Keys are transposed, which makes the product with one query twice
    as fast on a CPU. On a GPU all memory is allocated at once and keeps its address.
    """

    def __init__(
        self,
        layers: int,
        slots: int,
        capacity: int,
        heads: int,
        size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._grows = device.type == "cpu"
        self.slots, self.capacity = slots, GROWTH if self._grows else capacity
        # Zeros, not uninitialized memory: a masked NaN is still NaN after a product with 0.
        keys = (slots, heads, size, self.capacity)
        values = (slots, heads, self.capacity, size)
        self.keys = [torch.zeros(keys, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(values, dtype=dtype, device=device) for _ in range(layers)]
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)  # tokens of each row
        self._slots = torch.arange(slots, device=device)

    def has_room(self, slots: int, capacity: int) -> bool:
        """True if rows of this many tokens fit into the slots without new tensors."""
        return slots <= self.slots and (self._grows or capacity <= self.capacity)

    def reserve(self, tokens: int) -> int:
        """Make room for rows of `tokens` tokens; returns the number of columns to read for them."""
        if not self._grows:
            return min(tokens, self.capacity)
        if tokens > self.capacity:
            extra = -(-tokens // GROWTH) * GROWTH - self.capacity
            for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
                self.keys[layer] = torch.nn.functional.pad(keys, (0, extra))
                self.values[layer] = torch.nn.functional.pad(values, (0, 0, 0, extra))
            self.capacity += extra
        return self.capacity

    def write_prompts(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store prompts' keys and values [m, heads, P, size] in the slots [m]."""
        width = keys.shape[2]
        self.keys[layer][slots, :, :, :width] = keys.transpose(2, 3)
        self.values[layer][slots, :, :width] = values

    def append(
        self, layer: int, keys: Tensor, values: Tensor, next_columns: Tensor, columns: int
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values [n, heads, size] of one token for each of the first n slots.

        `next_columns` is [n]. Returns views [n, heads, size, columns] and
        [n, heads, columns, size].
        """
        count = keys.shape[0]
        slots = self._slots[:count]
        self.keys[layer][slots, :, :, next_columns] = keys
        self.values[layer][slots, :, next_columns] = values
        return self.keys[layer][:count, :, :, :columns], self.values[layer][:count, :, :columns]

    def build_bias(self, count: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Build [count, 1, 1, columns]: 0 for each row's tokens and its next one, else lowest."""
        hidden = torch.arange(columns, device=self.lengths.device) > self.lengths[:count, None]
        bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return bias.masked_fill_(hidden, torch.finfo(dtype).min)[:, None, None]
