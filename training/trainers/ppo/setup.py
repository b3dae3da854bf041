"""Set-up of stage 3: check what stages 1 and 2 left, and load the four models."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.data.collate import TokenBatch
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import Sampling
from training.inference import Model, read_token_values
from training.launching import stopping
from training.models import scalar
from training.models.cpu_blocks import use_cpu_blocks
from training.models.loading import check_fits, load_causal_lm, load_config
from training.models.lora import add_lora
from training.models.policy import ActorCritic, Policy
from training.models.tokenizers import Tokenizer, check_same_tokenizer, load_tokenizer
from training.runtime import engine, optim, publish
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine

RUN_STAGE_1 = "run step1_sft/run.sh first, or set --actor_model_name_or_path"
RUN_STAGE_2 = "run step2_reward/run.sh first, or set --reward_model_name_or_path"


@dataclass(frozen=True)
class Models:
    """The models of PPO; `hybrid` generates with the actor's weights.

    `critic` is None where the actor is an `ActorCritic`.
    """

    actor: TrainingEngine
    critic: TrainingEngine | None
    ref: Model
    reward_model: Model
    hybrid: HybridEngine

    @property
    def trained(self) -> dict[str, TrainingEngine]:
        """The engines that learn, by name."""
        critic = {} if self.critic is None else {"critic": self.critic}
        return {"actor": self.actor, **critic}

    def read_values(self, batch: TokenBatch) -> Tensor:  # [N]
        """Read the critic's value before each target token."""
        if self.critic is None:
            values: Tensor = self.actor(*batch.inputs, values_only=True)[0]
            return values
        return read_token_values(self.critic, batch)


def check_stages(args: PPOArgs, world: World) -> tuple[Tokenizer, scalar.ScalarSettings]:
    """Check files and flags; returns the tokenizer and the reward model's settings."""
    actor, scorer = args.actor_model_name_or_path, args.reward_model_name_or_path
    actor_flag, scorer_flag = "--actor_model_name_or_path", "--reward_model_name_or_path"
    config = load_config(actor, flag=actor_flag, hint=RUN_STAGE_1)
    scalar.refuse_scalar_model(actor, flag=actor_flag, hint=RUN_STAGE_1)
    publish.check_complete(actor, flag=actor_flag, hint=RUN_STAGE_1)
    settings = scalar.read_settings(scorer, flag=scorer_flag, hint=RUN_STAGE_2)
    publish.check_complete(scorer, flag=scorer_flag, hint=RUN_STAGE_2)
    length = args.max_prompt_length + args.max_new_tokens
    lengths = f"--max_prompt_length {args.max_prompt_length} and --max_new_tokens "
    lengths += f"{args.max_new_tokens} can"
    check_fits(config, length, flags=lengths)
    config = load_config(scalar.find_backbone(scorer, settings), flag=scorer_flag, hint=RUN_STAGE_2)
    check_fits(config, length, flags=f"{scorer_flag} {scorer}: {lengths}")
    for name in ("rollout_batch_size", "minibatch_size"):
        if getattr(args, name) % world.size:
            raise UserError(
                f"--{name} ({getattr(args, name)}) must be a multiple of the {world.size} ranks; "
                "launch a number of them that divides it"
            )
    tokenizer = load_tokenizer(actor, flag=actor_flag)
    check_same_tokenizer(tokenizer, load_tokenizer(scorer, flag=scorer_flag), actor, scorer)
    return tokenizer, settings


def load_models(
    args: PPOArgs, world: World, tokenizer: Tokenizer, settings: scalar.ScalarSettings
) -> Models:
    """Load actor and ref from stage 1, critic and reward model from stage 2, in their engines."""
    dtype = engine.compute_dtype(args.dtype, world.device)
    is_shared = args.critic == "shared"

    def load_policy(kind: type[Policy]) -> Policy:
        path = args.actor_model_name_or_path
        lm = load_causal_lm(path, tokenizer, device=world.device, dropout=0.0)
        return kind(lm, pad_id=tokenizer.pad_token_id, compute_dtype=dtype)

    load_scalar = partial(
        scalar.load_scalar_model,
        args.reward_model_name_or_path,
        settings,
        device=world.device,
        compute_dtype=dtype,
        tokens=len(tokenizer),
    )
    with engine.shard_while_loading(args, world):  # under ZeRO-3, weights are split as they load
        actor = load_policy(ActorCritic if is_shared else Policy)
        ref, reward_model = load_policy(Policy), load_scalar()
        critic = None if is_shared else load_scalar()
    add_lora(actor.lm, args)
    if critic is not None:
        add_lora(critic.backbone, args)
    for model in (actor, ref, reward_model, critic) if args.cpu_blocks else ():
        if model is not None:
            use_cpu_blocks(model)
    critic_optimizer = partial(optim.make_adamw, args=args, lr=args.critic_lr)
    return Models(
        actor=engine.wrap_trainable(actor, args, world, partial(make_actor_optimizer, args=args)),
        critic=engine.wrap_trainable(critic, args, world, critic_optimizer) if critic else None,
        ref=engine.wrap_frozen(ref, args, world),
        reward_model=engine.wrap_frozen(reward_model, args, world),
        hybrid=make_hybrid_engine(actor.lm, args, world, tokenizer),
    )


def make_actor_optimizer(module: nn.Module, args: PPOArgs) -> Optimizer:
    """AdamW at the actor's rate; a value head on its trunk learns at the critic's."""
    heads = module.value_head.parameters() if isinstance(module, ActorCritic) else ()
    return optim.make_adamw(module, args, args.actor_lr, {head: args.critic_lr for head in heads})


def make_hybrid_engine(lm: Any, args: PPOArgs, world: World, tokenizer: Tokenizer) -> HybridEngine:
    """Make the generator of rollouts, which shares its weights with `lm`."""
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
        gather=engine.gather_parameters,
        should_stop=stopping.should_stop,
    )
