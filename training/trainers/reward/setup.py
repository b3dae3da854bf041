"""Stage 2 from flags to parts: what the backbone must be, the engine, the schedule, saving."""

import logging
import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from training.arguments.reward import RewardArgs
from training.data.encode import EncodedGroup
from training.models.cpu_blocks import use_cpu_blocks
from training.models.loading import check_fits, check_packing, load_config
from training.models.lora import add_lora
from training.models.scalar import (
    ScalarModel,
    ScalarSettings,
    build_scalar_model,
    check_can_classify,
    refuse_scalar_model,
)
from training.models.tokenizers import Tokenizer, load_tokenizer
from training.runtime import optim, publish
from training.runtime.checkpoint_store import FOLDER as CHECKPOINTS
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, compute_dtype, wrap_trainable
from training.trainers.reward.normalization import OwnResponses, normalize
from training.trainers.reward.step import RewardTrainer
from training.trainers.saving import save_scalar
from training.trainers.schedule import Schedule

logger = logging.getLogger(__name__)

RUN_STAGE_1 = "run step1_sft/run.sh first, or set --model_name_or_path"


def check_backbone(args: RewardArgs) -> Tokenizer:
    """The stage-1 model's tokenizer, after what its files alone can tell has been checked."""
    flag = "--model_name_or_path"
    config = load_config(args.model_name_or_path, flag=flag, hint=RUN_STAGE_1)
    refuse_scalar_model(args.model_name_or_path, flag=flag, hint=RUN_STAGE_1)
    publish.check_complete(args.model_name_or_path, flag=flag, hint=RUN_STAGE_1)
    check_packing(config, args.packing)
    check_fits(config, args.max_length, flags=f"--max_length {args.max_length} can")
    if args.head == "linear" and args.pooling == "last":
        check_can_classify(config, flag=flag)
    return load_tokenizer(args.model_name_or_path, flag=flag)


def new_reward_model(args: RewardArgs, world: World, tokenizer: Tokenizer) -> ScalarModel:
    """The stage-1 backbone with a new head, dropout off."""
    return build_scalar_model(
        args.model_name_or_path,
        ScalarSettings(head=args.head, pooling=args.pooling),
        device=world.device,
        compute_dtype=compute_dtype(args.dtype, world.device),
        seed=args.seed,
        tokens=len(tokenizer),
    )


def reward_engine(model: ScalarModel, args: RewardArgs, world: World) -> TrainingEngine:
    """A training engine around the reward model; with LoRA its head is trained in full."""
    add_lora(model.backbone, args)
    if args.cpu_blocks:
        use_cpu_blocks(model)
    return wrap_trainable(
        model, args, world, partial(optim.make_adamw, args=args, lr=args.learning_rate)
    )


def reward_schedule(args: RewardArgs, world: World, trainer: RewardTrainer) -> Schedule:
    """As many steps as --max_steps says, else as --num_epochs makes."""
    steps = args.max_steps or max(math.ceil(args.num_epochs * len(trainer.batches(0))), 1)
    return Schedule(args, world, total_steps=steps)


def drop_part_checkpoints(args: RewardArgs, world: World) -> None:
    """Once the whole run is complete, nothing goes on from the points of its curve."""
    if world.is_main:
        for folder in Path(args.output_dir).glob(f"data_size_curve/*/{CHECKPOINTS}"):
            shutil.rmtree(folder, ignore_errors=True)


def announce_part(
    share: float, part: Sequence[EncodedGroup], whole: Sequence[EncodedGroup]
) -> None:
    """Say what the run that follows is trained on."""
    logger.info(
        "data-size curve: %.3g %% of the prompts, %d of %d rows", 100 * share, len(part), len(whole)
    )


def save_normalized(
    engine: TrainingEngine,
    own: OwnResponses | None,
    args: RewardArgs,
    tokenizer: Tokenizer,
    world: World,
    folder: Path,
) -> None:
    """Publish the reward model with the scale that `own` sets; training goes on without it."""
    model = engine.module
    as_trained = model.settings
    if own is not None:
        model.eval()
        normalize(model, engine, own, args, world, tokenizer.pad_token_id)
    save_scalar(engine, tokenizer, world, folder)
    model.settings = as_trained
