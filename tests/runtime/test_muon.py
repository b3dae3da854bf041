import pytest
import torch
from torch import nn
from torch.optim import Muon
from torch.testing import assert_close

from training.runtime.optim import StackedMuon, orthogonalize

SHAPES = [(8, 24), (8, 24), (24, 8), (8, 8), (8, 24), (24, 8)]


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_its_steps_equal_those_of_torch_muon(weight_decay):
    ours, plain = parameters(), parameters()
    settings = {"lr": 1e-2, "weight_decay": weight_decay}
    optimizers = [
        StackedMuon(ours, **settings),
        Muon(plain, adjust_lr_fn="match_rms_adamw", **settings),
    ]
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for left, right in zip(ours, plain, strict=True):
            left.grad = torch.randn(left.shape, generator=generator)
            right.grad = left.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    # Where bf16 sums in another order: 1 in 256 of an entry, which is 0.2 lr sqrt(24) at most.
    assert_close(ours, plain, rtol=0, atol=4 * 4e-5)
    moved = [(a - b).abs().max() for a, b in zip(ours, parameters(), strict=True)]
    assert min(moved) > 5e-3


def test_a_matrix_without_gradient_does_not_change():
    ours = parameters()
    ours[0].grad = torch.ones_like(ours[0])
    StackedMuon(ours, lr=1e-2, weight_decay=0.1).step()
    for found, before in zip(ours[1:], parameters()[1:], strict=True):
        assert found.equal(before)


@pytest.mark.parametrize("shape", [(3, 6, 20), (3, 20, 6), (2, 7, 7)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    found = orthogonalize(matrices).float()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    cosine = (found * (left @ right)).sum(dim=(1, 2)) / (
        found.norm(dim=(1, 2)) * (left @ right).norm(dim=(1, 2))
    )
    assert cosine.min() > 0.95
