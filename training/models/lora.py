"""LoRA (arXiv:2106.09685) through the `peft` library: small trained matrices beside frozen ones.

The model keeps its class; only the linear layers of its blocks become peft's. peft is imported
where it is needed, for it takes seconds.
"""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.models.loading import read_model

logger = logging.getLogger(__name__)

ADAPTER = "default"
ADAPTER_FOLDER = "adapter"
# How peft's own model names what lies inside it.
PEFT_PREFIX = "base_model.model."

Task = Literal["CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"]


def add_lora(model: nn.Module, args: CommonArgs) -> None:
    """Freeze a Hugging Face model and put an adapter beside every linear layer of its blocks.

    With --lora_rank 0 nothing is done. An adapter begins as zero, and does not depend on what was
    drawn before.
    """
    if not args.lora_rank:
        return
    import peft

    config = peft.LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha or 2.0 * args.lora_rank,  # type: ignore[arg-type]  # a float will do
        target_modules=list_linear_names(model),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER)


def list_linear_names(model: Any) -> list[str]:
    """Last parts of the names of all linear layers but the LM head."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if module is not head and isinstance(module, nn.Linear | Conv1D)
        }
    )


def merge_lora(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the base that `model` was read from, its adapters added: the plain model.

    `weights` are those of `model` by name; sums are made in fp32.
    """
    if not any(".lora_" in name for name in weights):
        return weights
    originals = _read_again(model, weights)
    plain = {}
    for name, weight in weights.items():
        layer, inside, own = name.partition(".base_layer.")
        if ".lora_" in name:
            continue
        if inside and own == "weight":
            weight = originals.get(layer, weight).float() + _delta(
                model.get_submodule(layer), weights, layer
            )
        plain[f"{layer}.{own}" if inside else name] = weight.float()
    return plain


def _read_again(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base's fp32 weights by adapted layer, where training keeps them in another type.

    That rounds them by more than a short training changes them.
    """
    kept = {w.dtype for name, w in weights.items() if name.endswith(".base_layer.weight")}
    if kept <= {torch.float32}:
        return {}
    from transformers import AutoModel

    backbone: Any = getattr(model, "backbone", model).base_model
    [prefix] = [name for name, module in model.named_modules() if module is backbone]
    path = backbone.config.name_or_path
    try:
        with torch.random.fork_rng():
            base = read_model(AutoModel, path, device=torch.device("cpu"), dropout=None)
        found = {
            f"{prefix}.{name}".strip(".").removesuffix(".weight"): weight.detach()
            for name, weight in base.named_parameters()
        }
        for name, weight in weights.items():
            layer, inside, own = name.partition(".base_layer.")
            if inside and own == "weight" and not found[layer].to(weight.dtype).equal(weight):
                raise UserError(f"{path} is no longer what this run began with")
    except UserError as error:
        logger.warning("the merged model holds the base as it was trained with, rounded: %s", error)
        return {}
    return found


def _delta(layer: Any, weights: dict[str, Tensor], name: str) -> Tensor:
    """What a layer's adapter adds to its weight; by `weights`, for ZeRO-3 leaves none whole."""
    lower, upper = (weights[f"{name}.lora_{part}.{ADAPTER}.weight"].float() for part in "AB")
    product: Tensor = (upper @ lower) * layer.scaling[ADAPTER]
    return product.T if layer.fan_in_fan_out else product


def save_adapter(
    model: Any,
    weights: dict[str, Tensor],
    folder: Path,
    *,
    base: str,
    task: Task,
    prefix: str = "",
    head: dict[str, Tensor] | None = None,
) -> None:
    """Write `adapter/` as `peft.PeftModel.from_pretrained` reads it over the model `base`.

    `prefix` is where `model` lies inside the model of that task, and `head` what is trained in
    full there, by name. Without LoRA nothing is written.
    """
    if not hasattr(model, "peft_config"):
        return
    config = model.peft_config[ADAPTER]
    config.base_model_name_or_path, config.task_type = base, task
    config.modules_to_save = sorted({name.split(".")[0] for name in head or {}}) or None
    target = folder / ADAPTER_FOLDER
    config.save_pretrained(str(target))
    tensors = {
        f"{PEFT_PREFIX}{prefix}{name.replace(f'.{ADAPTER}.', '.')}": weight.contiguous()
        for name, weight in weights.items()
        if ".lora_" in name
    }
    for name, weight in (head or {}).items():
        tensors[PEFT_PREFIX + name] = weight.contiguous()
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
