"""A plain, hook-free model that holds the actor's current weights."""

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

Gather = Callable[[Iterable[nn.Parameter]], AbstractContextManager[Any]]


class InferenceView:
    """The actor as generation sees it.

    Under ZeRO 0-2 every rank has whole weights and the view is the trained module itself, called
    past the engine's wrappers. Under ZeRO-3 a module's hooks gather each layer for each token,
    which costs several times the decoding; there the view is a second model without hooks, filled
    once a rollout, module by module, so that the peak is the view plus one module.
    """

    def __init__(self, lm: nn.Module, gather: Gather, device: torch.device) -> None:
        self._lm = lm
        self._gather = gather
        self._device = device
        self._shadow: nn.Module | None = None
        self._is_sharded = any(hasattr(parameter, "ds_id") for parameter in lm.parameters())

    def refresh(self) -> nn.Module:
        """The model to generate with; valid until the weights are next updated."""
        if not self._is_sharded:
            return self._lm
        if self._shadow is None:
            config = copy.deepcopy(self._lm.config)
            self._shadow = type(self._lm)(config).to(self._device)
            self._shadow.requires_grad_(False)
        targets = dict(self._shadow.named_modules())
        with torch.no_grad():
            for name, module in self._lm.named_modules():
                own = dict(module.named_parameters(recurse=False))
                with self._gather(own.values()):
                    for key, parameter in own.items():
                        targets[name].get_parameter(key).copy_(parameter)
        return self._shadow
