"""The shape of a model on the meta device, as the memory estimate counts it."""

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from training.models.work import shape_of
from training.runtime.memory_estimate import PERSISTENT
from training.runtime.memory_inputs import ModelSize


def size_of(lm: Any, *, beside: int = 0, persistent: int = PERSISTENT) -> ModelSize:
    """A Hugging Face model's shape; `beside` are trained parameters of a head of ours.

    Tensors of at most `persistent` entries are whole under ZeRO-3.
    """
    config, shape = lm.config, shape_of(lm)
    inner = getattr(config, "n_inner", None) or getattr(config, "intermediate_size", None)
    head = lm.get_output_embeddings()
    names = {name.rpartition(".")[2] for name, _ in lm.named_modules()}
    matrices = [
        module.weight
        for module in lm.modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    counts = [*(p.numel() for p in lm.parameters()), beside]
    is_tied = head is not None and head.weight is lm.get_input_embeddings().weight
    tied = head.weight.numel() if is_tied else 0
    return ModelSize(
        layers=shape.layers,
        width=shape.width,
        inner=inner or 4 * shape.width,
        heads=config.num_attention_heads,
        key_width=shape.key_width,
        vocabulary=shape.vocabulary,
        parameters=sum(p.numel() for p in lm.parameters()) + beside,
        matrices=sum(weight.numel() for weight in matrices),
        trained=sum(p.numel() for p in lm.parameters() if p.requires_grad) + beside,
        is_gpt2=config.model_type == "gpt2",
        is_gated="gate_proj" in names,
        small=sum(count for count in counts if count <= persistent),
        tied=tied if tied > persistent else 0,
    )
