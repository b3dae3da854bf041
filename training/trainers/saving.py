"""Publishing what an engine has trained; every rank calls these, rank 0 writes."""

from functools import partial
from pathlib import Path

from training.models import lora
from training.models.loading import save_causal_lm
from training.models.scalar import ScalarModel, ScalarSettings, save_scalar_model
from training.models.tokenizers import Tokenizer
from training.runtime import publish
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, collect_weights
from training.trainers.ppo.setup import Models


def save_policy(engine: TrainingEngine, tokenizer: Tokenizer, world: World, folder: Path) -> None:
    """Publish the engine's causal LM as a Hugging Face folder, LoRA merged and beside it."""
    lm = engine.module.lm
    weights = collect_weights(lm, world)
    plain = lora.merge_lora(lm, weights)

    def write(folder: Path) -> None:
        save_causal_lm(lm, plain, tokenizer, folder)
        base = lm.config.name_or_path
        lora.save_adapter(lm, weights, folder, base=base, task="CAUSAL_LM")

    publish.publish(folder, write, world)


def save_critic(models: Models, tokenizer: Tokenizer, world: World, folder: Path) -> None:
    """Publish what reads the values as a scalar model, whose backbone may be the actor's."""
    if models.critic is not None:
        save_scalar(models.critic, tokenizer, world, folder)
        return
    module = models.actor.module
    weights = collect_weights(module, world)
    inside = {name.removeprefix("lm."): weight for name, weight in weights.items()}
    prefix = f"{module.lm.base_model_prefix}."
    parts = {
        f"backbone.{name.removeprefix(prefix)}": weight
        for name, weight in lora.merge_lora(module.lm, inside).items()
        if name.startswith(prefix)
    }
    parts |= {
        f"head.{name.removeprefix('value_head.')}": weight
        for name, weight in weights.items()
        if name.startswith("value_head.")
    }
    scalar = ScalarModel(module.lm.base_model, ScalarSettings(), compute_dtype=module.compute_dtype)
    publish.publish(folder, partial(save_scalar_model, scalar, parts, tokenizer), world)


def save_scalar(engine: TrainingEngine, tokenizer: Tokenizer, world: World, folder: Path) -> None:
    """Publish the engine's scalar model as it is, LoRA merged and beside it."""
    model: ScalarModel = engine.module
    weights = collect_weights(model, world)
    plain = lora.merge_lora(model, weights)
    backbone, base = model.backbone, model.backbone.config.name_or_path

    def write(folder: Path) -> None:
        save_scalar_model(model, plain, tokenizer, folder)
        # The adapter of a plain scalar model brings its head; else it is the backbone's alone.
        inner = {name.removeprefix("backbone."): weight for name, weight in weights.items()}
        save_adapter = partial(lora.save_adapter, backbone, inner, folder, base=base)
        if model.settings.is_plain:
            head = {"score.weight": weights["head.weight"]}
            save_adapter(task="SEQ_CLS", prefix=f"{backbone.base_model_prefix}.", head=head)
        else:
            save_adapter(task="FEATURE_EXTRACTION")

    publish.publish(folder, write, world)
