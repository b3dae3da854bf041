"""Publishing what an engine has trained; every rank calls these, rank 0 writes."""

from functools import partial
from pathlib import Path

from training.models.loading import save_causal_lm
from training.models.scalar import ScalarModel, ScalarSettings, save_scalar_model
from training.models.tokenizers import Tokenizer
from training.runtime import checkpoint
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, full_weights
from training.trainers.ppo_setup import Models


def save_policy(engine: TrainingEngine, tokenizer: Tokenizer, world: World, folder: Path) -> None:
    """Publish the engine's causal LM as a Hugging Face folder."""
    lm = engine.module.lm
    write = partial(save_causal_lm, lm, full_weights(lm, world), tokenizer)
    checkpoint.publish(folder, write, world)


def save_critic(models: Models, tokenizer: Tokenizer, world: World, folder: Path) -> None:
    """Publish what reads the values as a scalar model, whose backbone may be the actor's."""
    if models.critic is not None:
        save_scalar(models.critic, tokenizer, world, folder)
        return
    module = models.actor.module
    prefix = f"lm.{module.lm.base_model_prefix}."
    names = {prefix: "backbone.", "value_head.": "head."}
    weights = {
        new + name.removeprefix(old): tensor
        for name, tensor in full_weights(module, world).items()
        for old, new in names.items()
        if name.startswith(old)
    }
    scalar = ScalarModel(module.lm.base_model, ScalarSettings(), compute_dtype=module.compute_dtype)
    checkpoint.publish(folder, partial(save_scalar_model, scalar, weights, tokenizer), world)


def save_scalar(engine: TrainingEngine, tokenizer: Tokenizer, world: World, folder: Path) -> None:
    """Publish the engine's scalar model as it is."""
    model = engine.module
    write = partial(save_scalar_model, model, full_weights(model, world), tokenizer)
    checkpoint.publish(folder, write, world)
