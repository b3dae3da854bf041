"""Collect and restore an engine's trained weights and optimizer state, whole and by parameter name.

The format does not depend on ZeRO stages or ranks: another layout can restore it.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, gather_parameters

WEIGHT = "weight"


def collect_engine_state(engine: TrainingEngine, world: World) -> dict[str, Tensor]:
    """Return "PARAMETER/weight", "PARAMETER/exp_avg", ..., "PARAMETER/step" on rank 0; else {}.

    All ranks call it. One parameter at a time is gathered on each of them.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in _list_trained(engine):
        with gather_parameters([parameter]):
            if world.is_main:
                state[f"{name}/{WEIGHT}"] = _copy_to_host(parameter)
        for key, value in _read_optimizer_state(engine, parameter):
            if world.is_main:
                state[f"{name}/{key}"] = _copy_to_host(value)
    return state


def load_engine_state(engine: TrainingEngine, state: Mapping[str, Tensor]) -> None:
    """Set weights and optimizer state; all ranks pass the whole of `collect_engine_state`.

    Raises `ValueError` for a state of another model.
    """
    parameters = dict(_list_trained(engine))
    by_name: dict[str, dict[str, Tensor]] = {}
    for path, value in state.items():
        name, _, key = path.rpartition("/")
        by_name.setdefault(name, {})[key] = value
    if by_name.keys() != parameters.keys():
        missing = sorted(parameters.keys() - by_name.keys())[:3]
        unknown = sorted(by_name.keys() - parameters.keys())[:3]
        raise ValueError(f"it is of another model: missing {missing}, unknown {unknown}")
    for name, parameter in parameters.items():
        _set_weight(parameter, by_name[name].pop(WEIGHT), name, engine.zero_stage)
    if engine.zero_stage:
        engine.make_flat_optimizer_states(next(iter(by_name.values())))
    for name, parameter in parameters.items():
        _set_optimizer_state(engine, parameter, by_name[name])


def _list_trained(engine: TrainingEngine) -> list[tuple[str, nn.Parameter]]:
    """List trained parameters with their names, tied ones once."""
    return [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]


def _copy_to_host(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _read_optimizer_state(
    engine: TrainingEngine, parameter: nn.Parameter
) -> list[tuple[str, Tensor]]:
    """Return the optimizer's state of a parameter by key; the count of steps is a 0-d tensor."""
    if not engine.zero_stage:
        state = _find_state(engine, parameter)
        return [(key, torch.as_tensor(value)) for key, value in state.items()]
    from deepspeed.utils import safe_get_full_optimizer_state

    shared = engine.read_flat_optimizer_states()[0]
    return [
        (key, value if value.dim() == 0 else safe_get_full_optimizer_state(parameter, key))
        for key, value in shared.items()
    ]


def _find_state(engine: TrainingEngine, parameter: nn.Parameter) -> dict[str, Any]:
    """Return the state of a parameter from the optimizer that has it (no ZeRO)."""
    for optimizer in engine.list_optimizers():
        if any(parameter is p for group in optimizer.param_groups for p in group["params"]):
            state: dict[str, Any] = optimizer.state[parameter]
            return state
    raise KeyError("no optimizer has this parameter")


def _set_weight(parameter: nn.Parameter, value: Tensor, name: str, zero_stage: int) -> None:
    whole_shape = getattr(parameter, "ds_shape", parameter.shape)
    if value.shape != whole_shape:
        raise ValueError(
            f"it is of another model: {name} has shape {tuple(value.shape)}, not "
            f"{tuple(whole_shape)}"
        )
    value = value.to(parameter.device)
    if zero_stage < 3:
        parameter.data.copy_(value)
    # Under ZeRO the optimizer has a copy as well.
    if zero_stage == 3:
        import deepspeed
        from deepspeed.utils import safe_set_local_fp32_param

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)
        safe_set_local_fp32_param(parameter, _take_shard(parameter, value))
    elif zero_stage:
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(parameter, value)


def _set_optimizer_state(
    engine: TrainingEngine, parameter: nn.Parameter, state: Mapping[str, Tensor]
) -> None:
    device = parameter.device
    if not engine.zero_stage:
        current = _find_state(engine, parameter)
        current.clear()
        current.update({key: value.to(device, copy=True) for key, value in state.items()})
        return
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    for key, value in state.items():
        if value.dim() == 0:
            continue
        if engine.zero_stage == 3:
            shard = _take_shard(parameter, value.to(device))
            safe_set_local_optimizer_state(parameter, shard, key)
        else:
            safe_set_full_optimizer_state(parameter, value.to(device), key)


def _take_shard(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Return this rank's shard of a whole value under ZeRO-3, padded with zeros.

    DeepSpeed's setters of whole values fail if a parameter does not divide by the ranks.
    """
    sharded: Any = parameter
    rank, size = dist.get_rank(sharded.ds_process_group), sharded.partition_numel()
    shard = value.flatten()[rank * size : (rank + 1) * size]
    return nn.functional.pad(shard, (0, size - shard.numel()))
