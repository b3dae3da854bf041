"""Set-up of stage 2: checks of the backbone, the engine, the schedule, saving."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from training.arguments.reward import RewardArgs
from training.data.encode import EncodedGroup
from training.models import scalar
from training.models.cpu_blocks import use_cpu_blocks
from training.models.loading import check_fits, check_packing, load_config
from training.models.lora import add_lora
from training.models.tokenizers import Tokenizer, load_tokenizer
from training.runtime import engine, optim, publish
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.trainers.reward.normalization import Samples, normalize
from training.trainers.reward.step import RewardTrainer
from training.trainers.saving import save_scalar
from training.trainers.schedule import Schedule

RUN_STAGE_1 = "run step1_sft/run.sh first, or set --model_name_or_path"


def check_backbone(args: RewardArgs) -> Tokenizer:
    """Check the files of the stage-1 model, and return its tokenizer."""
    flag = "--model_name_or_path"
    config = load_config(args.model_name_or_path, flag=flag, hint=RUN_STAGE_1)
    scalar.refuse_scalar_model(args.model_name_or_path, flag=flag, hint=RUN_STAGE_1)
    publish.check_complete(args.model_name_or_path, flag=flag, hint=RUN_STAGE_1)
    check_packing(config, args.packing)
    check_fits(config, args.max_length, flags=f"--max_length {args.max_length} can")
    if args.head == "linear" and args.pooling == "last":
        scalar.check_can_classify(config, flag=flag)
    return load_tokenizer(args.model_name_or_path, flag=flag)


def make_reward_model(args: RewardArgs, world: World, tokenizer: Tokenizer) -> scalar.ScalarModel:
    """Put a new head on the stage-1 backbone, dropout off."""
    return scalar.build_scalar_model(
        args.model_name_or_path,
        scalar.ScalarSettings(head=args.head, pooling=args.pooling),
        device=world.device,
        compute_dtype=engine.compute_dtype(args.dtype, world.device),
        seed=args.seed,
        tokens=len(tokenizer),
    )


def build_engine(model: scalar.ScalarModel, args: RewardArgs, world: World) -> TrainingEngine:
    """Build the training engine of the reward model; with LoRA its head is trained in full."""
    add_lora(model.backbone, args)
    if args.cpu_blocks:
        use_cpu_blocks(model)
    return engine.wrap_trainable(
        model, args, world, partial(optim.make_adamw, args=args, lr=args.learning_rate)
    )


def build_trainer(
    args: RewardArgs, world: World, tokenizer: Tokenizer, groups: Sequence[EncodedGroup]
) -> tuple[RewardTrainer, Schedule]:
    """Load the backbone and build what trains it on these groups."""
    with engine.shard_while_loading(args, world):  # under ZeRO-3, weights are split as they load
        model = make_reward_model(args, world, tokenizer)
    trained = build_engine(model, args, world)
    trainer = RewardTrainer(args, world, trained, groups, tokenizer.pad_token_id)
    steps = count_steps(args, len(trainer.batches(0)))
    return trainer, Schedule(args, world, total_steps=steps)


def count_steps(args: RewardArgs, batches: int) -> int:
    """Count optimizer steps: --max_steps, else --num_epochs of `batches` each."""
    return args.max_steps or max(math.ceil(args.num_epochs * batches), 1)


def save_normalized(
    trained: TrainingEngine,
    samples: Samples | None,
    args: RewardArgs,
    tokenizer: Tokenizer,
    world: World,
    folder: Path,
) -> None:
    """Publish the reward model with the scale set on `samples`; training continues without it."""
    model = trained.module
    settings = model.settings
    if samples is not None:
        model.eval()
        normalize(model, trained, samples, args, world, tokenizer.pad_token_id)
    save_scalar(trained, tokenizer, world, folder)
    model.settings = settings
