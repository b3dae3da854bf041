"""Micro-batches as tensors; an empty one becomes a row without targets.

Ranks must call the model equally often under ZeRO, so one that has nothing left still takes part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from training.data.packing import RowPlan
from training.tensors import block_attention_mask, pad_right

T = TypeVar("T")
BySample: TypeAlias = Mapping[int, T] | Sequence[T]


@dataclass(frozen=True)
class TokenBatch:
    """input_ids [B, L] long; attention_mask and target_mask [B, L] bool.

    In rows of several sequences attention_mask is [B, L, L], as `block_attention_mask` makes it.
    """

    input_ids: Tensor
    attention_mask: Tensor
    target_mask: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first arguments of a policy's forward."""
        return self.input_ids, self.attention_mask, self.target_mask


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
    input_ids, attention_mask = pad_right(rows, pad_id)
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


def collate_texts(
    rows: RowPlan,
    texts: BySample[Sequence[int]],
    targets: BySample[Sequence[bool]],
    *,
    pad_id: int,
    device: torch.device,
) -> TokenBatch:
    """Rows of whole texts (by sample), which do not see each other; `targets` as in `collate`."""
    tokens = [[token for doc in row for token in texts[doc.sample]] for row in rows]
    marks = [[mark for doc in row for mark in targets[doc.sample]] for row in rows]
    batch = collate(tokens, marks, pad_id=pad_id, device=device)
    if all(len(row) == 1 for row in rows):
        return batch
    documents = [
        [place for place, doc in enumerate(row, start=1) for _ in range(doc.tokens)] for row in rows
    ]
    branches = [[0] * len(row) for row in documents]
    return replace(batch, attention_mask=_block_mask(documents, branches, device))


def collate_groups(
    rows: RowPlan,
    prompts: BySample[Sequence[int]],
    responses: BySample[Sequence[Sequence[int]]],
    *,
    pad_id: int,
    device: torch.device,
) -> tuple[TokenBatch, dict[tuple[int, int], tuple[int, int]]]:
    """Rows of prompts, each with some of its responses; where (sample, response) ends: (row, i).

    Tokens of the responses are marked as targets.
    """
    ends: dict[tuple[int, int], tuple[int, int]] = {}
    tokens: list[list[int]] = []
    branches: list[list[int]] = []  # 0 for a prompt, then 1, 2, ...
    documents: list[list[int]] = []
    for place, row in enumerate(rows):
        ids: list[int] = []
        branch: list[int] = []
        document: list[int] = []
        for number, doc in enumerate(row, start=1):
            parts = [prompts[doc.sample], *(responses[doc.sample][k] for k in doc.responses)]
            for index, part in enumerate(parts):
                ids += part
                branch += [index] * len(part)
                if index:
                    ends[doc.sample, doc.responses[index - 1]] = (place, len(ids) - 1)
            document += [number] * doc.tokens
        tokens.append(ids)
        branches.append(branch)
        documents.append(document)
    batch = collate(
        tokens, [[bool(b) for b in row] for row in branches], pad_id=pad_id, device=device
    )
    if all(len(row) == 1 and len(row[0].responses) == 1 for row in rows):
        return batch, ends
    return replace(batch, attention_mask=_block_mask(documents, branches, device)), ends


def _block_mask(
    documents: Sequence[Sequence[int]], branches: Sequence[Sequence[int]], device: torch.device
) -> Tensor:
    numbers, _ = pad_right(documents, 0)
    parts, _ = pad_right(branches, 0)
    return block_attention_mask(numbers.to(device), parts.to(device))
