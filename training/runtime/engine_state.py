"""An engine's trained weights and optimizer state by parameter name, whole on the host.

The form knows nothing of ZeRO stages or ranks: what one layout saved another can restore.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, gather_parameters

WEIGHT = "weight"


def collect_engine_state(engine: TrainingEngine, world: World) -> dict[str, Tensor]:
    """ "PARAMETER/weight", "PARAMETER/exp_avg", ..., "PARAMETER/step" on rank 0; {} elsewhere.

    All ranks call it; a parameter is whole on each of them for a moment, one after the other.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(engine):
        with gather_parameters([parameter]):
            if world.is_main:
                found[f"{name}/{WEIGHT}"] = _on_host(parameter)
        for key, value in _optimizer_state(engine, parameter):
            if world.is_main:
                found[f"{name}/{key}"] = _on_host(value)
    return found


def load_engine_state(engine: TrainingEngine, state: Mapping[str, Tensor]) -> None:
    """Set weights and optimizer state; all ranks pass the whole of `collect_engine_state`.

    Raises `ValueError` for a state of another model.
    """
    parameters = dict(trained_parameters(engine))
    described = {name.rpartition("/")[0] for name in state}
    if described != parameters.keys():
        raise ValueError(f"it is of another model: {_difference(described, parameters.keys())}")
    by_name: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for name, value in state.items():
        of, _, key = name.rpartition("/")
        by_name[of][key] = value
    for name, parameter in parameters.items():
        _set_weight(parameter, by_name[name].pop(WEIGHT), name, engine.zero_stage)
    if engine.zero_stage:
        engine.make_flat_optimizer_states(next(iter(by_name.values())))
    for name, parameter in parameters.items():
        _set_optimizer_state(engine, parameter, by_name[name])


def trained_parameters(engine: TrainingEngine) -> Iterator[tuple[str, nn.Parameter]]:
    """Those that an optimizer changes, by name, tied ones once."""
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def _on_host(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _difference(found: set[str], expected: Any) -> str:
    missing, unknown = sorted(set(expected) - found), sorted(found - set(expected))
    return f"missing {missing[:3]}, unknown {unknown[:3]}"


def _optimizer_state(engine: TrainingEngine, parameter: nn.Parameter) -> list[tuple[str, Tensor]]:
    """What the optimizer remembers of a parameter, by key; a count of steps is a 0-d tensor."""
    if not engine.zero_stage:
        kept = _state_of(engine, parameter)
        return [(key, torch.as_tensor(value)) for key, value in kept.items()]
    from deepspeed.utils import safe_get_full_optimizer_state

    shared = engine.flat_optimizer_states()[0]
    return [
        (key, value if value.dim() == 0 else safe_get_full_optimizer_state(parameter, key))
        for key, value in shared.items()
    ]


def _state_of(engine: TrainingEngine, parameter: nn.Parameter) -> dict[str, Any]:
    """The dict of whole tensors of a parameter, in whichever optimizer has it."""
    for part in engine.optimizers():
        if any(parameter is own for group in part.param_groups for own in group["params"]):
            state: dict[str, Any] = part.state[parameter]
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
    if zero_stage == 3:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)
    else:
        parameter.data.copy_(value)
    if zero_stage == 3:
        from deepspeed.utils import safe_set_local_fp32_param

        safe_set_local_fp32_param(parameter, _shard(parameter, value))  # the optimizer's own copy
    elif zero_stage:
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(parameter, value)


def _set_optimizer_state(
    engine: TrainingEngine, parameter: nn.Parameter, state: Mapping[str, Tensor]
) -> None:
    device = parameter.device
    if not engine.zero_stage:
        own = _state_of(engine, parameter)
        own.clear()
        own.update({key: value.to(device, copy=True) for key, value in state.items()})
        return
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    for key, value in state.items():
        if value.dim() == 0:
            continue
        if engine.zero_stage == 3:
            shard = _shard(parameter, value.to(device))
            safe_set_local_optimizer_state(parameter, shard, key)
        else:
            safe_set_full_optimizer_state(parameter, value.to(device), key)


def _shard(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """This rank's part of a parameter's whole value under ZeRO-3, the last ones padded with zeros.

    DeepSpeed's own setters of whole values fail where the ranks do not divide a parameter.
    """
    sharded: Any = parameter
    rank, size = dist.get_rank(sharded.ds_process_group), sharded.partition_numel()
    own = value.flatten()[rank * size : (rank + 1) * size]
    return nn.functional.pad(own, (0, size - own.numel()))
