"""A plain, hook-free model that holds the actor's current weights."""

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Gather = Callable[[Iterable[nn.Parameter]], AbstractContextManager[Any]]


class InferenceView:
    """The actor's model for generation.

    Under ZeRO 0-2 every rank has whole weights, and the view is the trained module itself, without
    the engine's wrappers. In three cases it is a second model without hooks, filled once per
    rollout, module by module:

    - under ZeRO-3, whose hooks would gather each layer for each token, at several times the cost of
      decoding; the peak is the view plus one module;
    - with LoRA, whose adapters are merged here;
    - with `matrix_dtype`, the type in which it keeps linear layers, the LM head included.

    Unchanged weights share their storage with the trained module.
    """

    def __init__(
        self,
        lm: nn.Module,
        gather: Gather,
        device: torch.device,
        matrix_dtype: torch.dtype | None = None,
    ) -> None:
        self._lm = lm
        self._gather = gather
        self._device = device
        self._matrix_dtype = matrix_dtype
        self._shadow: nn.Module | None = None
        self._is_sharded = any(hasattr(parameter, "ds_id") for parameter in lm.parameters())

    def refresh(self) -> nn.Module:
        """Return the model to generate with; valid until the next update of the weights."""
        if self._shadow is None:
            modules = list(self._lm.modules())
            has_lora = any(hasattr(module, "base_layer") for module in modules)
            is_cast = any(
                self._choose_dtype(module, weight) != weight.dtype
                for module in modules
                for weight in module.parameters(recurse=False)
            )
            if not (self._is_sharded or has_lora or is_cast):
                return self._lm
            self._shadow = self._build()
        targets = dict(self._shadow.named_modules())
        with torch.no_grad():
            for name, module in self._lm.named_modules():
                if name not in targets:
                    continue  # inside a LoRA layer
                with self._gather(module.parameters(recurse=hasattr(module, "base_layer"))):
                    for key, weight in _collect_plain_weights(module).items():
                        self._put(weight, targets[name].get_parameter(key))
        return self._shadow

    def _choose_dtype(self, module: nn.Module, weight: Tensor) -> torch.dtype:
        """Choose the type in which the view keeps a module's weight."""
        is_matrix = isinstance(module, nn.Linear | Conv1D)
        return self._matrix_dtype if is_matrix and self._matrix_dtype else weight.dtype

    def _build(self) -> nn.Module:
        """Build a model of the same class; `refresh` fills in its weights."""
        config = copy.deepcopy(self._lm.config)
        with torch.random.fork_rng():  # training draws as if there were no view
            shadow: nn.Module = type(self._lm)(config).to(self._device)
        for module in shadow.modules():
            for key, weight in list(module.named_parameters(recurse=False)):
                dtype = self._choose_dtype(module, weight)
                if dtype != weight.dtype:  # a new parameter: a tied embedding keeps its type
                    setattr(module, key, nn.Parameter(weight.detach().to(dtype)))
        return shadow.requires_grad_(False)

    def _put(self, weight: Tensor, target: nn.Parameter) -> None:
        """Share the storage of `weight` if possible, else copy it."""
        is_alike = weight.dtype == target.dtype and weight.device == target.device
        if is_alike and isinstance(weight, nn.Parameter) and not self._is_sharded:
            target.data = weight.data
        else:
            target.copy_(weight)


def _collect_plain_weights(module: Any) -> dict[str, Tensor]:
    """Collect a module's direct parameters by name; a LoRA layer's with its adapter merged."""
    base = getattr(module, "base_layer", None)
    if base is None:
        return dict(module.named_parameters(recurse=False))
    weights: dict[str, Tensor] = dict(base.named_parameters(recurse=False))
    for adapter in module.active_adapters:
        weights["weight"] = weights["weight"].float() + module.get_delta_weight(adapter)
    return weights
