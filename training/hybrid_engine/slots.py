"""The state of the rows that are being decoded, by slot, in tensors that never move.

A step changes them in place and never waits for the device, so that a CUDA graph can replay it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.hybrid_engine.sampling import Sampling, sample_tokens


class SlotTable:
    """The rows of S slots of up to T tokens."""

    def __init__(
        self, slots: int, sampling: Sampling, *, eos_id: int, pad_id: int, device: torch.device
    ) -> None:
        limit = sampling.max_new_tokens
        self._sampling = sampling
        self._eos_id, self._pad_id = eos_id, pad_id
        self.uniforms = torch.zeros(slots, limit, device=device)
        self.tokens = torch.full((slots, limit), pad_id, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(slots, limit, device=device)
        self.entropies = torch.zeros(slots, limit, device=device)
        self.ages = torch.zeros(slots, dtype=torch.long, device=device)  # tokens so far
        self.active = torch.zeros(slots, dtype=torch.bool, device=device)
        self.last = torch.zeros(slots, dtype=torch.long, device=device)  # the token to append

    def admit(self, slots: Tensor, uniforms: Tensor, logits: Tensor) -> None:
        """Start a response in each of these slots [m] with its first token, from logits [m, V]."""
        self.uniforms[slots] = uniforms
        self.tokens[slots] = self._pad_id
        self.logprobs[slots] = 0.0
        self.entropies[slots] = 0.0
        self.ages[slots] = 0
        self.active[slots] = True
        self.draw(slots, logits)

    def draw(self, slots: Tensor, logits: Tensor) -> None:
        """Sample the next token of each of these slots [m], from logits [m, V]."""
        limit = self._sampling.max_new_tokens
        ages, active = self.ages[slots], self.active[slots]
        column = ages.clamp(max=limit - 1)  # finished rows are sampled too, until they are dropped
        samples = sample_tokens(
            logits, self.uniforms[slots, column], self._sampling, banned_token=self._pad_id
        )
        targets = (self.tokens, self.logprobs, self.entropies)
        for target, values in zip(targets, samples, strict=True):
            target[slots, column] = torch.where(active, values, target[slots, column])
        drawn = samples[0]
        self.last[slots] = drawn
        self.ages[slots] = ages + active
        self.active[slots] = active & (drawn != self._eos_id) & (ages < limit - 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Move the rows of these slots to the first slots, in this order."""
        moved = [(target, source) for target, source in enumerate(rows) if target != source]
        if not moved:
            return
        targets, sources = torch.tensor(moved, device=self.ages.device).T
        state = (self.uniforms, self.tokens, self.logprobs, self.entropies,
                 self.ages, self.active, self.last)  # fmt: skip
        for tensor in state:
            tensor[targets] = tensor[sources]
