"""LoRA (arXiv:2106.09685) through the `peft` library: small trained matrices beside frozen ones.

The model keeps its class; only the linear layers of its blocks become peft's. peft takes seconds to
import, so functions import it.
"""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.models.loading import read_model

logger = logging.getLogger(__name__)

ADAPTER = "default"
ADAPTER_FOLDER = "adapter"
PEFT_PREFIX = "base_model.model."  # of the names in a `PeftModel`

Task = Literal["CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"]


def add_lora(model: nn.Module, args: CommonArgs) -> None:
    """Freeze a Hugging Face model and add an adapter to every linear layer of its blocks.

    Does nothing with --lora_rank 0. An adapter starts as zero; its random matrix depends on --seed
    alone.
    """
    if not args.lora_rank:
        return
    import peft

    config = peft.LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha or 2.0 * args.lora_rank,  # type: ignore[arg-type]  # float works
        target_modules=list_linear_names(model),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER)


def list_linear_names(model: Any) -> list[str]:
    """List the last parts of the names of all linear layers except the LM head."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if module is not head and isinstance(module, nn.Linear | Conv1D)
        }
    )


def merge_lora(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the adapters to the base model's weights in fp32 and return the plain model's weights.

    `weights` are the full tensors of `model` by name.
    """
    if not any(".lora_" in name for name in weights):
        return weights
    originals = _reload_base_weights(model, weights)
    plain = {}
    for name, weight in weights.items():
        layer, is_adapted, parameter = name.partition(".base_layer.")
        if ".lora_" in name:
            continue
        if is_adapted and parameter == "weight":
            # From `weights`: ZeRO-3 leaves none whole in the model.
            names = [f"{layer}.lora_{side}.{ADAPTER}.weight" for side in "AB"]
            lower, upper = (weights[adapter].float() for adapter in names)
            adapted: Any = model.get_submodule(layer)
            change = (upper @ lower) * adapted.scaling[ADAPTER]
            change = change.T if adapted.fan_in_fan_out else change
            weight = originals.get(layer, weight).float() + change
        plain[f"{layer}.{parameter}" if is_adapted else name] = weight.float()
    return plain


def _reload_base_weights(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Load the base's fp32 weights by adapted layer, if training keeps them in another type.

    That type rounds them by more than a short training changes them.
    """
    dtypes = {w.dtype for name, w in weights.items() if name.endswith(".base_layer.weight")}
    if dtypes <= {torch.float32}:
        return {}
    backbone: Any = getattr(model, "backbone", model).base_model
    [prefix] = [name for name, module in model.named_modules() if module is backbone]
    path = backbone.config.name_or_path
    try:
        with torch.random.fork_rng():
            base = read_model(AutoModel, path, device=torch.device("cpu"), dropout=None)
        originals = {
            f"{prefix}.{name}".strip(".").removesuffix(".weight"): weight.detach()
            for name, weight in base.named_parameters()
        }
        for name, weight in weights.items():
            layer, _, parameter = name.partition(".base_layer.")
            if parameter == "weight" and not originals[layer].to(weight.dtype).equal(weight):
                raise UserError(f"{path} is no longer what this run began with")
    except UserError as error:
        logger.warning("the merged model holds the base as it was trained with, rounded: %s", error)
        return {}
    return originals


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
    """Write `adapter/` so that `peft.PeftModel.from_pretrained` loads it over the model `base`.

    `prefix` is the name of `model` inside the model of that task, and `head` are the tensors there
    that are trained in full, by name. Writes nothing without LoRA.
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
