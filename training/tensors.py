"""Shapes and masks: what every stage needs, in one place each.

B sequences of L tokens, N selected tokens, T response positions. A mask is bool; True marks a
token that counts. Padding may hold anything, NaN included.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] long and their bool mask [B, L], padded on the right to the longest row."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, make_length_mask(lengths, width)


def move_rows(tensors: Sequence[Tensor], rows: Sequence[int]) -> None:
    """Move these rows of each tensor to its first rows, in this order; most stay in place."""
    moved = [(target, source) for target, source in enumerate(rows) if target != source]
    if not moved:
        return
    targets, sources = torch.tensor(moved, device=tensors[0].device).T
    for tensor in tensors:
        tensor[targets] = tensor[sources]


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of the counting entries; a 0-d tensor in the values' dtype."""
    return values.masked_fill(~mask, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the counting entries; 0 when none counts."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_mean_and_variance(values: Tensor, mask: Tensor) -> tuple[float, float]:
    """Mean and biased variance (divided by n) of the counting entries, in float64; (0, 0) if none.

    Biased as in Ziegler et al. 2019 (arXiv:1909.08593).
    """
    kept = values[mask].double()
    if not kept.numel():
        return 0.0, 0.0
    mean = kept.sum().item() / kept.numel()
    return mean, max(kept.square().sum().item() / kept.numel() - mean * mean, 0.0)


def whiten(values: Tensor, mask: Tensor, *, keep_mean: bool = False) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8) over the counting entries, 0 where the mask is False.

    `keep_mean` adds the mean back, as for rewards (Ziegler et al. 2019); advantages lose theirs.
    """
    mean, variance = masked_mean_and_variance(values, mask)
    whitened: Tensor = (values - mean) * (variance + 1e-8) ** -0.5
    if keep_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0.0)


def compute_position_ids(attention_mask: Tensor) -> Tensor:  # [B, L (, L)] bool -> [B, L] long
    """Number of real tokens before each one, so that padding on either side changes nothing.

    With a mask [B, L, L] these are the tokens that each one reads, less itself.
    """
    if attention_mask.dim() == 3:
        return (attention_mask.sum(dim=2) - 1).clamp(min=0)
    counts = attention_mask.long()
    return counts.cumsum(dim=1) - counts


def block_attention_mask(
    documents: Tensor,  # [B, L] long, 0 at padding
    branches: Tensor,  # [B, L] long
) -> Tensor:  # [B, L, L] bool, True where token i (row) reads token j (column)
    """Attention for rows that hold several sequences.

    Token i reads earlier tokens of its document that are in the trunk (branch 0) or in the branch
    of token i. Padding neither reads nor is read.
    """
    is_same = documents[:, :, None] == documents[:, None, :]
    is_seen = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    is_real = (documents != 0)[:, :, None]
    return (is_same & is_seen & is_real).tril()


def shift_target_mask(target_mask: Tensor) -> Tensor:  # [B, L] bool -> [B, L] bool
    """Mask of the positions whose logits predict the target tokens: the shift, done only here.

    The hidden state at position i gives the distribution of token i + 1, and a critic's reading
    there is the value before token i + 1. A target at position 0 cannot be predicted.
    """
    if bool(target_mask[:, 0].any()):
        raise ValueError("the first token of a sequence cannot be a target")
    shifted = torch.zeros_like(target_mask)
    shifted[:, :-1] = target_mask[:, 1:]
    return shifted


def make_length_mask(lengths: Tensor, width: int) -> Tensor:  # [B] -> [B, width] bool
    """True in the first `lengths[b]` columns of row b."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def find_last_position(attention_mask: Tensor) -> Tensor:  # [B, L] bool -> [B] long
    """Index of the last real token of each row."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    index: Tensor = (positions * attention_mask).argmax(dim=1)
    return index


def scatter_to_mask(packed: Tensor, mask: Tensor) -> Tensor:  # [N], [B, T] -> [B, T]
    """Put N packed values, in row order, where the mask is True; 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=packed.dtype, device=packed.device).masked_scatter(
        mask, packed
    )
