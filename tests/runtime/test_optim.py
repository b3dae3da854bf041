import copy
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from training.arguments.common import CommonArgs
from training.runtime.optim import adamw, lr_scale, muon, step_lr_scale

ARGS = CommonArgs(weight_decay=0.1)


@pytest.mark.parametrize(
    ("progress", "scheduler", "expected"),
    [
        (0.0, "cosine", 0.0),
        (0.1, "cosine", 0.5),  # half-way up
        (0.2, "cosine", 1.0),
        (0.6, "cosine", 0.55),  # half-way between 1 and 0.1
        (0.4, "cosine", 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))),
        (1.0, "cosine", 0.1),
        (0.6, "linear", 0.55),
        (0.4, "linear", 0.775),
        (1.0, "linear", 0.1),
        (0.1, "constant", 0.5),
        (1.0, "constant", 1.0),
    ],
)
def test_the_rate_rises_then_decays_to_its_minimum(progress, scheduler, expected):
    found = lr_scale(progress, scheduler=scheduler, warmup_ratio=0.2, min_lr_ratio=0.1)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_a_warm_up_of_nothing_or_of_everything_has_no_gap(warmup):
    def scale(progress: float) -> float:
        return lr_scale(progress, scheduler="linear", warmup_ratio=warmup, min_lr_ratio=0.0)

    assert scale(0.0) == (1.0 if warmup == 0 else 0.0)
    assert scale(0.5) == pytest.approx(0.5)


def test_neither_the_first_nor_the_last_step_is_wasted():
    args = CommonArgs(warmup_ratio=0.5, lr_scheduler="linear")
    scales = [step_lr_scale(args, step / 4, (step + 1) / 4) for step in range(4)]
    assert scales == pytest.approx([0.25, 0.75, 0.75, 0.25])


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


def test_weight_decay_is_on_matrices_alone():
    model = TwoBlocks()
    groups = adamw(model, ARGS, lr=1e-3).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay == {id(model.embedding): 0.1, id(model.inner): 0.1, id(model.bias): 0.0}


def with_muon(model: TwoBlocks) -> torch.optim.Optimizer:
    return muon(model, lambda p: p is model.inner, ARGS, lr=1e-3, muon_lr=1e-2)


def test_muon_moves_the_inner_matrix_and_adamw_the_rest():
    model, plain = TwoBlocks(), TwoBlocks()
    with_muon(model).step()
    adamw(plain, ARGS, lr=1e-3).step()
    assert_close(model.embedding, plain.embedding)
    assert_close(model.bias, plain.bias)
    assert_close(model.frozen, plain.frozen)
    change = (model.inner - TwoBlocks().inner * (1 - 1e-2 * 0.1)).detach()
    # Near orthogonal: every direction moves by about as much, whatever its gradient.
    stretch = torch.linalg.svdvals(change)
    assert stretch.max() / stretch.min() < 2.0
    assert torch.linalg.svdvals(TwoBlocks().inner.detach().sin()).max() > 2.0


def test_muon_does_not_care_that_gpt_2_stores_its_matrices_transposed():
    one, other = TwoBlocks(), TwoBlocks(transposed=True)
    with_muon(one).step()
    with_muon(other).step()
    assert_close(other.inner.T, one.inner, rtol=0, atol=1e-4)  # Muon computes in bf16


def test_a_rate_set_on_the_pair_is_set_on_its_parts():
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
