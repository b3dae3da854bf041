"""The guard asks nothing more of a healthy step: the norm is computed once, by the same code."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.stages.spies import Patches
from training.arguments.sft import SFTArgs
from training.runtime import engine, optim


@pytest.mark.parametrize(
    ("stage", "method"), [(1, "scaled_global_norm"), (2, "scaled_global_norm"),
                          (3, "_get_norm_groups")]
)  # fmt: skip
def test_the_norm_is_computed_once_a_step_and_clips_by_itself(world, stage, method):
    args = SFTArgs(zero_stage=stage, max_grad_norm=1.0, dtype="fp32")
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    trained = engine.wrap_trainable(
        layer, args, world, partial(optim.make_adamw, args=args, lr=0.1)
    )
    zero = type(trained._engine.optimizer)
    calls, reductions = [], []

    def count(original, *inputs, **options):
        calls.append(inputs)
        return original(*inputs, **options)

    def reduce(original, *inputs, **options):
        reductions.append(inputs)
        return original(*inputs, **options)

    for step in (1, 2, 3):
        trained.backward(trained(torch.tensor([[3.0, 4.0]])).sum(), last=True)
        with Patches() as patch:
            patch.around(zero, method, count)
            patch.around(dist, "all_reduce", reduce)
            assert trained.compute_gradient_norm() == pytest.approx(5.0)
            during_norm = len(reductions)
            if step == 2:
                trained.drop()
            else:
                trained.step(1.0)
        assert len(calls) == step
        if step != 2:
            assert len(reductions) == during_norm  # the step itself reduces nothing more
        reductions.clear()
