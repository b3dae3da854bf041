"""Micro-batches as tensors; an empty one becomes a row without targets.

Ranks must call the model equally often under ZeRO, so one that has nothing left still takes part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.tensors import right_pad


@dataclass(frozen=True)
class TokenBatch:
    """input_ids [B, L] long; attention_mask and target_mask [B, L] bool."""

    input_ids: Tensor
    attention_mask: Tensor
    target_mask: Tensor


def collate(
    rows: Sequence[Sequence[int]],
    targets: Sequence[Sequence[bool]],
    *,
    pad_id: int,
    device: torch.device,
) -> TokenBatch:
    """Right-padded token rows and which of their tokens are targets (never the first)."""
    if not rows:
        rows, targets = [[pad_id, pad_id]], [[False, False]]
    input_ids, attention_mask = right_pad(rows, pad_id)
    width = attention_mask.shape[1]
    target_mask = torch.tensor([[*row, *[False] * (width - len(row))] for row in targets])
    return TokenBatch(input_ids.to(device), attention_mask.to(device), target_mask.to(device))


def collate_responses(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    pad_id: int,
    device: torch.device,
) -> TokenBatch:
    """Each prompt followed by its response, whose tokens are the targets."""
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    targets = [
        [False] * len(prompt) + [True] * len(response)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return collate(rows, targets, pad_id=pad_id, device=device)
