"""Keys and values of all slots."""

from collections.abc import Sequence

import torch
from torch import Tensor

# On a CPU the cache grows by this many tokens at a time and is always read whole: a batched
# product of part of it would first copy that part.
GROWTH = 32


class KVCache:
    """Per layer keys [slots, heads, size, capacity] and values [slots, heads, capacity, size].

    A row fills its slot from 0. Keys are transposed because a product of one query with them is
    then twice as fast on a CPU. On a GPU all memory is allocated at once and stays.
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
        # Zeros, not what memory held: a masked NaN is still NaN once it is multiplied by 0.
        keys = (slots, heads, size, self.capacity)
        values = (slots, heads, self.capacity, size)
        self.keys = [torch.zeros(keys, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(values, dtype=dtype, device=device) for _ in range(layers)]
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)  # tokens of each row
        self._slots = torch.arange(slots, device=device)

    def fits(self, slots: int, capacity: int) -> bool:
        """Whether so many rows of so many tokens can go in without new tensors."""
        return slots <= self.slots and (self._grows or capacity <= self.capacity)

    def reserve(self, tokens: int) -> int:
        """Make room for rows of so many tokens; how many columns a read of such rows takes."""
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
        self, layer: int, keys: Tensor, values: Tensor, places: Tensor, columns: int
    ) -> tuple[Tensor, Tensor]:
        """Store one token's keys and values [n, heads, size] of the first n slots at places [n].

        Returns views [n, heads, size, columns] and [n, heads, columns, size].
        """
        count = keys.shape[0]
        slots = self._slots[:count]
        self.keys[layer][slots, :, :, places] = keys
        self.values[layer][slots, :, places] = values
        return self.keys[layer][:count, :, :, :columns], self.values[layer][:count, :, :columns]

    def places(self, count: int) -> Tensor:
        """Where the next token of each of the first slots goes, [count]."""
        return self.lengths[:count].clamp(max=self.capacity - 1)

    def bias(self, count: int, columns: int, dtype: torch.dtype) -> Tensor:
        """[count, 1, 1, columns]: 0 for each row's tokens and its next one, else lowest."""
        places = torch.arange(columns, device=self.lengths.device)
        hidden = places > self.lengths[:count, None]
        bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return bias.masked_fill_(hidden, torch.finfo(dtype).min)[:, None, None]

    def keep(self, rows: Sequence[int]) -> None:
        """Copy the rows of these slots into the first slots, in this order; most stay in place."""
        moved = [(target, source) for target, source in enumerate(rows) if target != source]
        if not moved:
            return
        targets, sources = torch.tensor(moved, device=self.lengths.device).T
        self.lengths[targets] = self.lengths[sources]
        for cache in (*self.keys, *self.values):
            cache[targets] = cache[sources]
