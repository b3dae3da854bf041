"""Gradients between backward and step: their norm, which is not finite, and how to drop them.

Left alone, DeepSpeed decides for each engine by itself: in fp32 ZeRO 1 to 3 leave out a step whose
norm is not finite, and without ZeRO it is made and the weights are lost. Here the norm is known
before any engine steps. The attributes of its optimizers are private; tests hold them.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.runtime.distributed import World


def compute_global_norm(engine: Any) -> float:
    """The norm of the gradients that `step` would use, the same on every rank; all call this.

    Not finite (inf or NaN) where an entry is not. DeepSpeed's own `step` is then given it, so that
    it is computed once.
    """
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:  # gradients are whole on each rank, and DeepSpeed reports no norm in fp32
        norms = [p.grad.norm() for p in engine.module.parameters() if p.grad is not None]
        return float(torch.stack(norms).norm()) if norms else 0.0
    if stage == 3:
        from deepspeed.runtime.utils import combine_grad_norm_groups

        groups = zero._get_norm_groups()
        zero._get_norm_groups = lambda: groups
        return float(combine_grad_norm_groups(groups))
    zero._wait_for_offload_copies()
    norm = zero.scaled_global_norm()
    zero.scaled_global_norm = lambda norm_type=2: norm
    return float(norm)


def forget_norm(engine: Any) -> None:
    """After `step` or `drop`: the next norm is computed anew."""
    for name in ("_get_norm_groups", "scaled_global_norm"):
        vars(engine.optimizer).pop(name, None)


def drop(engine: Any) -> None:
    """Clear the gradients; weights and optimizer state stay as they are.

    Under ZeRO this is the way that DeepSpeed's step takes when a loss scale was too large.
    """
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        engine.zero_grad()
        return
    if stage == 3:
        zero._get_norm_groups = lambda: [math.inf]
        engine.step()
        return
    checks = zero.check_grad_overflow
    zero.check_grad_overflow, zero.has_overflow = True, lambda *_, **__: True
    try:
        engine.step()
    finally:
        zero.check_grad_overflow = checks
        del zero.has_overflow


def find_bad_gradients(engine: Any, world: World) -> list[str]:
    """Names of the parameters whose gradient is not finite on some rank; all ranks call this.

    In the order of the module. Only between the last backward of a step and its end.
    """
    stage = engine.zero_optimization_stage()
    named = [(n, p) for n, p in engine.module.named_parameters() if p.requires_grad]
    return _bad_names([(name, _own_gradient(p, stage)) for name, p in named], world)


def find_bad_weights(module: nn.Module, world: World) -> list[str]:
    """The same of the weights themselves, of a trained or a frozen module, sharded or not."""
    named = module.named_parameters()
    return _bad_names([(n, getattr(p, "ds_tensor", p.data)) for n, p in named], world)


def _own_gradient(parameter: nn.Parameter, stage: int) -> Tensor | None:
    """What this rank holds of a parameter's gradient, added up over the ranks."""
    if stage == 0:
        return parameter.grad
    if stage == 3:
        from deepspeed.utils import safe_get_local_grad

        shard: Tensor = safe_get_local_grad(parameter)
        return shard
    mapping = getattr(parameter, "_hp_mapping", None)  # None: this rank holds nothing of it
    if mapping is None:
        return None
    fragment: Tensor = mapping.get_lp_grad_fragment(
        parameter._index_in_param_group  # type: ignore[attr-defined]
    )
    return fragment


def _bad_names(named: Sequence[tuple[str, Tensor | None]], world: World) -> list[str]:
    own = [name for name, values in named if values is not None and not _is_finite(values)]
    bad: set[str] = set().union(*_as_sets(world.gather(own)))
    return [name for name, _ in named if name in bad]


def _as_sets(lists: Iterable[list[str]]) -> list[set[str]]:
    return [set(names) for names in lists]


def _is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
