import copy

import torch
from torch import nn
from torch.testing import assert_close

from training.arguments.common import CommonArgs
from training.runtime.optim import make_adamw, make_muon

ARGS = CommonArgs(weight_decay=0.1)


class TwoBlocks(nn.Module):
    def __init__(self, *, transposed: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        inner = torch.randn(6, 3, generator=generator)
        self.embedding = nn.Parameter(torch.randn(5, 3, generator=generator))
        self.inner = nn.Parameter(inner.T.contiguous() if transposed else inner)
        self.bias = nn.Parameter(torch.randn(6, generator=generator))
        self.frozen = nn.Parameter(torch.randn(2, 2, generator=generator), requires_grad=False)
        self.inner.grad = self.inner.detach().sin()
        self.embedding.grad = torch.ones_like(self.embedding)
        self.bias.grad = torch.zeros_like(self.bias)


def test_only_matrices_have_weight_decay():
    model = TwoBlocks()
    groups = make_adamw(model, ARGS, lr=1e-3).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay == {id(model.embedding): 0.1, id(model.inner): 0.1, id(model.bias): 0.0}


def with_muon(model: TwoBlocks) -> torch.optim.Optimizer:
    return make_muon(model, lambda p: p is model.inner, ARGS, lr=1e-3, muon_lr=1e-2)


def test_muon_moves_the_inner_matrix_and_adamw_the_rest():
    model, plain = TwoBlocks(), TwoBlocks()
    with_muon(model).step()
    make_adamw(plain, ARGS, lr=1e-3).step()
    assert_close(model.embedding, plain.embedding)
    assert_close(model.bias, plain.bias)
    assert_close(model.frozen, plain.frozen)
    change = (model.inner - TwoBlocks().inner * (1 - 1e-2 * 0.1)).detach()
    # Near orthogonal: every direction moves by about as much, whatever its gradient.
    stretch = torch.linalg.svdvals(change)
    assert stretch.max() / stretch.min() < 2.0
    assert torch.linalg.svdvals(TwoBlocks().inner.detach().sin()).max() > 2.0


def test_muon_is_the_same_for_transposed_matrices():
    one, other = TwoBlocks(), TwoBlocks(transposed=True)
    with_muon(one).step()
    with_muon(other).step()
    assert_close(other.inner.T, one.inner, rtol=0, atol=1e-4)  # Muon computes in bf16


def test_a_learning_rate_set_on_the_pair_is_set_on_both():
    model = TwoBlocks()
    optimizer = with_muon(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert_close(dict(model.named_parameters()), dict(TwoBlocks().named_parameters()))


def test_the_pairs_state_can_be_saved_and_loaded():
    model, other = TwoBlocks(), TwoBlocks()
    optimizer, second = with_muon(model), with_muon(other)
    optimizer.step()
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.load_state_dict(model.state_dict())
    for pair in (optimizer, second):
        for group in pair.param_groups:
            group["lr"] *= 0.5  # reaches the parts after loading as before
        pair.step()
    assert_close(dict(other.named_parameters()), dict(model.named_parameters()), rtol=0, atol=0)
