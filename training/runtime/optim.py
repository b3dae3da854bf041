"""Optimizers: AdamW, and Muon for the matrices inside blocks."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from training.arguments.common import CommonArgs

# The quintic's coefficients and the number of its iterations (K. Jordan et al., "Muon", 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


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


class StackedMuon(Muon):
    """Muon scaled to AdamW's update size; its updates equal those of `torch.optim.Muon`.

    A small model has dozens of small matrices. One batched product per shape took half the time
    of one product per matrix (16 matrices of 4 layers x 128, two cores).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, lr: float, weight_decay: float):
        # GPT-2 stores its matrices transposed; "match_rms_adamw" does not depend on that.
        super().__init__(
            parameters, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._step_stacked(parameters, group)

    def _step_stacked(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        weights: list[Tensor] = list(parameters)
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        momentum, lr = group["momentum"], group["lr"]
        torch._foreach_lerp_(buffers, grads, 1.0 - momentum)
        updates = torch._foreach_lerp(grads, buffers, momentum)  # Nesterov's
        directions = orthogonalize(torch.stack(updates)).to(weights[0].dtype).unbind()
        scaled_lr = lr * 0.2 * math.sqrt(max(parameters[0].shape))
        torch._foreach_mul_(weights, 1.0 - lr * group["weight_decay"])
        torch._foreach_add_(weights, directions, alpha=-scaled_lr)


def orthogonalize(matrices: Tensor) -> Tensor:  # [k, m, n] -> [k, m, n] bf16
    """Bring the singular values of each matrix near 1, by Newton-Schulz iterations in bf16."""
    a, b, c = COEFFICIENTS
    low = matrices.bfloat16()
    is_tall = low.shape[1] > low.shape[2]
    if is_tall:
        low = low.transpose(1, 2)
    low = low / low.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(ITERATIONS):
        gram = torch.bmm(low, low.transpose(1, 2))
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        low = torch.baddbmm(low, gram, low, beta=a)
    return low.transpose(1, 2) if is_tall else low
