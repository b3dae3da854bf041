"""The decoder for any Hugging Face causal LM: the model's own forward and cache."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from training.tensors import pad_right


class CachedModelDecoder:
    """Cached decoding through `model(input_ids, past_key_values=...)`.

    Rows share the cache's columns, so a batch starts and ends together.
    """

    is_static = False
    casts_weights = False

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._model: Any = None
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.bool)

    def load(self, model: nn.Module) -> None:
        self._model = model

    def begin(self, slots: int, capacity: int) -> bool:
        self._cache = None
        return True

    def admit(self, prompts: Sequence[Sequence[int]], slots: Tensor) -> Tensor:
        from transformers import DynamicCache

        groups = [(prompt, len(list(same))) for prompt, same in groupby(map(tuple, prompts))]
        input_ids, mask = pad_right([prompt for prompt, _ in groups], 0)
        copies = torch.tensor([count for _, count in groups])
        which = torch.repeat_interleave(torch.arange(len(groups)), copies).to(slots.device)
        input_ids, self._mask = input_ids.to(slots.device), mask.to(slots.device)
        self._cache = DynamicCache(config=self._model.config)
        positions = torch.arange(input_ids.shape[1], device=slots.device).expand_as(input_ids)
        logits = self._forward(input_ids, positions)
        rows = torch.arange(len(logits), device=slots.device)
        last: Tensor = logits[rows, self._mask.sum(dim=1) - 1][which]
        if len(which) > len(groups):
            self._cache.batch_select_indices(which)
            self._mask = self._mask[which]
        return last.float()

    def step(self, tokens: Tensor, context: int) -> Tensor:
        positions = self._mask.sum(dim=1, keepdim=True)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        return self._forward(tokens[:, None], positions)[:, -1].float()

    def keep(self, rows: Sequence[int]) -> None:
        if not rows:
            self._cache = None
        elif list(rows) != list(range(len(self._mask))):
            kept = torch.tensor(rows, device=self._mask.device)
            self._cache.batch_select_indices(kept)
            self._mask = self._mask[kept]

    def release(self) -> None:
        self._cache = None
        self._model = None

    def _forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        is_low = self._dtype != torch.float32
        with torch.autocast(input_ids.device.type, dtype=torch.bfloat16, enabled=is_low):
            logits: Tensor = self._model(
                input_ids=input_ids,
                attention_mask=self._mask.long(),
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            ).logits
        return logits
