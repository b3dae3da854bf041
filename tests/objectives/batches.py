"""Tensors that the tests of PPO's objectives share: two responses, of four and two tokens."""

import torch

NAN = float("nan")
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])
EVERYWHERE = torch.ones_like(MASK)


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


def normal(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(MASK.shape, generator=generator, dtype=torch.float64)


def dirty(values, what=NAN):
    """Copy a tensor with padding that must not matter."""
    return values.masked_fill(~MASK, what)
