"""Publishing what an engine has trained; every rank calls these, rank 0 writes."""

from functools import partial
from pathlib import Path

from training.models.loading import save_causal_lm
from training.models.scalar import save_scalar_model
from training.models.tokenizers import Tokenizer
from training.runtime import checkpoint
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, full_weights


def save_policy(engine: TrainingEngine, tokenizer: Tokenizer, world: World, folder: Path) -> None:
    """Publish the engine's causal LM as a Hugging Face folder."""
    lm = engine.module.lm
    write = partial(save_causal_lm, lm, full_weights(lm, world), tokenizer)
    checkpoint.publish(folder, write, world)


def save_scalar(engine: TrainingEngine, tokenizer: Tokenizer, world: World, folder: Path) -> None:
    """Publish the engine's scalar model as it is."""
    model = engine.module
    write = partial(save_scalar_model, model, full_weights(model, world), tokenizer)
    checkpoint.publish(folder, write, world)
