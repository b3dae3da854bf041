"""Stage 3 from flags to parts: what the stages before must have left, and the four models."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import Sampling
from training.models.cpu_blocks import use_cpu_blocks
from training.models.loading import check_fits, load_causal_lm, load_config
from training.models.lora import add_lora
from training.models.policy import Policy
from training.models.scalar import (
    ScalarSettings,
    load_scalar_model,
    read_settings,
    refuse_scalar_model,
)
from training.models.tokenizers import Tokenizer, check_same_tokenizer, load_tokenizer
from training.runtime import checkpoint, engine, optim
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.trainers.forwards import Model

RUN_STAGE_1 = "run step1_sft/run.sh first, or set --actor_model_name_or_path"
RUN_STAGE_2 = "run step2_reward/run.sh first, or set --reward_model_name_or_path"


@dataclass(frozen=True)
class Models:
    """The four models of PPO; `hybrid` generates with the actor's weights."""

    actor: TrainingEngine
    critic: TrainingEngine
    ref: Model
    reward_model: Model
    hybrid: HybridEngine


def check_stages(args: PPOArgs, world: World) -> tuple[Tokenizer, ScalarSettings]:
    """Tokenizer and reward-model settings, after what files and flags can tell was checked."""
    actor, scorer = args.actor_model_name_or_path, args.reward_model_name_or_path
    actor_flag, scorer_flag = "--actor_model_name_or_path", "--reward_model_name_or_path"
    config = load_config(actor, flag=actor_flag, hint=RUN_STAGE_1)
    refuse_scalar_model(actor, flag=actor_flag, hint=RUN_STAGE_1)
    checkpoint.check_complete(actor, flag=actor_flag, hint=RUN_STAGE_1)
    settings = read_settings(scorer, flag=scorer_flag, hint=RUN_STAGE_2)
    checkpoint.check_complete(scorer, flag=scorer_flag, hint=RUN_STAGE_2)
    check_fits(
        config,
        args.max_prompt_length + args.max_new_tokens,
        flags=f"--max_prompt_length {args.max_prompt_length} and --max_new_tokens "
        f"{args.max_new_tokens} can",
    )
    for name in ("rollout_batch_size", "minibatch_size"):
        if getattr(args, name) % world.size:
            raise UserError(
                f"--{name} ({getattr(args, name)}) must be a multiple of the {world.size} ranks"
            )
    tokenizer = load_tokenizer(actor, flag=actor_flag)
    check_same_tokenizer(tokenizer, load_tokenizer(scorer, flag=scorer_flag), actor, scorer)
    return tokenizer, settings


def load_models(
    args: PPOArgs, world: World, tokenizer: Tokenizer, settings: ScalarSettings
) -> Models:
    """Actor and ref from stage 1, critic and reward model from stage 2, under their engines."""
    dtype = engine.compute_dtype(args.dtype, world.device)
    pad_id = tokenizer.pad_token_id

    def policy() -> Policy:
        path = args.actor_model_name_or_path
        lm = load_causal_lm(path, tokenizer, device=world.device, dropout=0.0)
        return Policy(lm, pad_id=pad_id, compute_dtype=dtype)

    scalar = partial(
        load_scalar_model,
        args.reward_model_name_or_path,
        settings,
        device=world.device,
        compute_dtype=dtype,
        tokens=len(tokenizer),
    )
    with engine.sharded_init(args, world):  # under ZeRO-3, weights are split as they load
        actor_policy, ref, critic, reward_model = policy(), policy(), scalar(), scalar()
    add_lora(actor_policy.lm, args)
    add_lora(critic.backbone, args)
    if args.cpu_blocks:
        for model in (actor_policy, ref, critic, reward_model):
            use_cpu_blocks(model)
    actor = engine.trainable(
        actor_policy, args, world, partial(optim.adamw, args=args, lr=args.actor_lr)
    )
    return Models(
        actor=actor,
        critic=engine.trainable(
            critic, args, world, partial(optim.adamw, args=args, lr=args.critic_lr)
        ),
        ref=engine.frozen(ref, args, world),
        reward_model=engine.frozen(reward_model, args, world),
        hybrid=_hybrid(actor_policy.lm, args, world, tokenizer),
    )


def _hybrid(lm: Any, args: PPOArgs, world: World, tokenizer: Tokenizer) -> HybridEngine:
    return HybridEngine(
        lm,
        Sampling(
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
        ),
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        device=world.device,
        dtype=engine.compute_dtype(args.dtype, world.device),
        batch_size=args.generation_batch_size,
        gather=engine.gathered,
    )
