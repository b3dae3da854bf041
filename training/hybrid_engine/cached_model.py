"""The path for any other Hugging Face causal LM: the model's own forward with its own cache."""

from typing import Any

import torch
from torch import Tensor, nn


class CachedModelDecoder:
    """Cached decoding through `model(input_ids, past_key_values=...)`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._model: Any = None
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.bool)

    def load(self, model: nn.Module) -> None:
        self._model = model

    def prefill(self, input_ids: Tensor, mask: Tensor, new_tokens: int) -> Tensor:
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config)
        self._mask = mask
        positions = torch.arange(input_ids.shape[1], device=mask.device).expand_as(input_ids)
        logits = self._forward(input_ids, positions)
        rows = torch.arange(len(logits), device=logits.device)
        last: Tensor = logits[rows, mask.sum(dim=1) - 1]
        return last.float()

    def step(self, tokens: Tensor) -> Tensor:
        positions = self._mask.sum(dim=1, keepdim=True)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        return self._forward(tokens[:, None], positions)[:, -1].float()

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]

    def release(self) -> None:
        self._cache = None
        self._model = None

    def _forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        low = self._dtype != torch.float32
        with torch.autocast(input_ids.device.type, dtype=torch.bfloat16, enabled=low):
            logits: Tensor = self._model(
                input_ids=input_ids,
                attention_mask=self._mask.long(),
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            ).logits
        return logits
