"""Optimizers: AdamW, and Muon for the matrices inside blocks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from training.arguments.common import CommonArgs
from training.runtime.muon import StackedMuon


def make_adamw(
    model: nn.Module,
    args: CommonArgs,
    lr: float,
    other_lrs: Mapping[nn.Parameter, float] | None = None,
) -> Optimizer:
    """Make AdamW over the trainable parameters; weight decay on matrices only.

    `other_lrs` gives parameters a learning rate other than `lr`.
    """
    by_lr: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        by_lr.setdefault((other_lrs or {}).get(parameter, lr), []).append(parameter)
    groups = [
        {**group, "lr": group_lr}
        for group_lr, parameters in by_lr.items()
        for group in _group_by_decay(parameters, args.weight_decay)
    ]
    return _make_adamw(groups, args, lr)


def make_muon(
    model: nn.Module,
    is_inner_matrix: Callable[[nn.Parameter], bool],
    args: CommonArgs,
    *,
    lr: float,
    muon_lr: float,
) -> Optimizer:
    """Make Muon for the parameters that `is_inner_matrix` picks, and AdamW for the rest."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inside = [parameter for parameter in trained if is_inner_matrix(parameter)]
    outside = [parameter for parameter in trained if not is_inner_matrix(parameter)]
    groups = _group_by_decay(outside, args.weight_decay)
    muon = StackedMuon(inside, lr=muon_lr, weight_decay=args.weight_decay)
    return TwoOptimizers(muon, _make_adamw(groups, args, lr))


def _make_adamw(groups: list[dict[str, Any]], args: CommonArgs, lr: float) -> AdamW:
    beta1, beta2 = args.adam_betas
    return AdamW(groups, lr=lr, betas=(beta1, beta2), eps=args.adam_eps, fused=True)


def _group_by_decay(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    # Under ZeRO-3 a parameter is an empty shard here, and `ds_shape` is its real shape.
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) >= 2]
    vectors = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [(matrices, weight_decay), (vectors, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


class TwoOptimizers(Optimizer):
    """Two optimizers over disjoint parameters, stepped as one."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        self.parts = (first, second)
        super().__init__([p for group in self._list_groups() for p in group["params"]], {})
        # The same dict objects as in the parts: a learning rate set here is set there.
        self.param_groups = self._list_groups()

    def _list_groups(self) -> list[dict[str, Any]]:
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
        self.param_groups = self._list_groups()  # loading gives each part new dicts
