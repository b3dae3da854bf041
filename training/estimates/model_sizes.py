"""The shape of a model on the meta device, as the memory estimate counts it."""

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from training.estimates.shapes import ModelSize
from training.estimates.work import shape_of


def size_of(lm: Any, *, beside: int = 0) -> ModelSize:
    """A Hugging Face model's shape; `beside` are trained parameters of a head of ours."""
    config, shape = lm.config, shape_of(lm)
    inner = getattr(config, "n_inner", None) or getattr(config, "intermediate_size", None)
    head = lm.get_output_embeddings()
    names = {name.rpartition(".")[2] for name, _ in lm.named_modules()}
    matrices = [
        module.weight
        for module in lm.modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
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
    )
