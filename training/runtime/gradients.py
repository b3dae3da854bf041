"""Gradients between backward and step: compute their norm, find non-finite ones, drop them.

By default DeepSpeed decides per engine: in fp32, ZeRO 1 to 3 skip a step whose norm is not finite,
and without ZeRO the step ruins the weights. Here the norm is known before any engine steps. The
optimizers' attributes are private to DeepSpeed; tests check that they work.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.runtime.distributed import World


def compute_global_norm(engine: Any) -> float:
    """Return the global norm of the gradients, equal on every rank; all ranks call this.

    It is inf or NaN if an entry is. DeepSpeed's `step` reuses it, so that it is computed once.
    """
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:  # each rank has whole gradients; DeepSpeed reports no norm in fp32
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
    """Let the next step compute its norm again."""
    for name in ("_get_norm_groups", "scaled_global_norm"):
        vars(engine.optimizer).pop(name, None)


def drop(engine: Any) -> None:
    """Clear the gradients; weights and optimizer state stay as they are.

    Under ZeRO this is what DeepSpeed's step does after an overflow of the loss scale.
    """
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        engine.zero_grad()
        return
    if stage == 3:
        zero._get_norm_groups = lambda: [math.inf]
        engine.step()
    else:
        checks = zero.check_grad_overflow
        zero.check_grad_overflow, zero.has_overflow = True, lambda *_, **__: True
        try:
            engine.step()
        finally:
            zero.check_grad_overflow = checks
            del zero.has_overflow
    forget_norm(engine)


def find_bad_gradients(engine: Any, world: World) -> list[str]:
    """Name the parameters whose gradient is not finite on some rank, in the module's order.

    All ranks call this, between the last backward of a step and its end.
    """
    stage = engine.zero_optimization_stage()
    named = [(n, p) for n, p in engine.module.named_parameters() if p.requires_grad]
    return _find_bad_names([(name, _read_gradient(p, stage)) for name, p in named], world)


def find_bad_weights(module: nn.Module, world: World) -> list[str]:
    """Name the weights that are not finite on some rank, of any module, sharded or not."""
    named = module.named_parameters()
    return _find_bad_names([(n, getattr(p, "ds_tensor", p.data)) for n, p in named], world)


def _read_gradient(parameter: nn.Parameter, stage: int) -> Tensor | None:
    """Return this rank's shard of a parameter's gradient, summed over ranks."""
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


def _find_bad_names(named: Sequence[tuple[str, Tensor | None]], world: World) -> list[str]:
    bad_here = [
        name for name, values in named if values is not None and not torch.isfinite(values).all()
    ]
    bad = {name for names in world.gather(bad_here) for name in names}
    return [name for name, _ in named if name in bad]
