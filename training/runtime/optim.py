"""Optimizers and learning-rate schedules.

A schedule is a function of progress, never of its own past: nothing to save, nothing to restore.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from training.arguments.common import CommonArgs
from training.runtime.muon import StackedMuon


def lr_scale(
    progress: float,
    *,
    scheduler: Literal["cosine", "linear", "constant"],
    warmup_ratio: float,
    min_lr_ratio: float,
) -> float:
    """Learning rate as a share of its peak at `progress` in [0, 1], the share of steps done.

    Rises linearly over `warmup_ratio`, then decays to `min_lr_ratio`.
    """
    if progress < warmup_ratio:
        return progress / warmup_ratio
    if scheduler == "constant" or warmup_ratio >= 1.0:
        return 1.0
    done = min((progress - warmup_ratio) / (1.0 - warmup_ratio), 1.0)
    shape = 1.0 - done if scheduler == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return min_lr_ratio + (1.0 - min_lr_ratio) * shape


def step_lr_scale(args: CommonArgs, progress: float, next_progress: float) -> float:
    """The scale of the step that goes from `progress` to `next_progress`, taken half-way.

    So that neither the first step (scale 0 in a warm-up) nor the last is wasted.
    """
    return lr_scale(
        (progress + next_progress) / 2.0,
        scheduler=args.lr_scheduler,
        warmup_ratio=args.warmup_ratio,
        min_lr_ratio=args.min_lr_ratio,
    )


def adamw(
    model: nn.Module,
    args: CommonArgs,
    lr: float,
    other_lrs: Mapping[nn.Parameter, float] | None = None,
) -> Optimizer:
    """AdamW over the trainable parameters; decay on matrices only.

    `other_lrs`: parameters that learn at another rate.
    """
    by_lr: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        by_lr.setdefault((other_lrs or {}).get(parameter, lr), []).append(parameter)
    groups = [
        {**group, "lr": group_lr}
        for group_lr, parameters in by_lr.items()
        for group in _decay_groups(parameters, args.weight_decay)
    ]
    return AdamW(groups, **_adam(args, lr))


def muon(
    model: nn.Module,
    is_inner_matrix: Callable[[nn.Parameter], bool],
    args: CommonArgs,
    *,
    lr: float,
    muon_lr: float,
) -> Optimizer:
    """Muon on the parameters that `is_inner_matrix` picks (2-d, in blocks), AdamW on the rest."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inside = [parameter for parameter in trained if is_inner_matrix(parameter)]
    outside = [parameter for parameter in trained if not is_inner_matrix(parameter)]
    first = StackedMuon(inside, lr=muon_lr, weight_decay=args.weight_decay)
    return TwoOptimizers(first, AdamW(_decay_groups(outside, args.weight_decay), **_adam(args, lr)))


def _adam(args: CommonArgs, lr: float) -> dict[str, Any]:
    beta1, beta2 = args.adam_betas
    return {"lr": lr, "betas": (beta1, beta2), "eps": args.adam_eps, "fused": True}


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    # Under ZeRO-3 a parameter is an empty shard here; `ds_shape` then has its real shape.
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) >= 2]
    vectors = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [(matrices, weight_decay), (vectors, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


class TwoOptimizers(Optimizer):
    """Two optimizers over disjoint parameters, stepped as one."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        self.parts = (first, second)
        everything = [
            p for part in self.parts for group in part.param_groups for p in group["params"]
        ]
        super().__init__(everything, {})
        # The same dict objects as the parts': a learning rate set here is set there.
        self.param_groups = self._groups()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()  # loading gives each part new dicts
