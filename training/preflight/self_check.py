"""Run the self-check: choose models and prompts, log a table, stop if a check failed."""

import logging
from collections.abc import Sequence
from pathlib import Path

from training.arguments.parsing import GuardStop, UserError
from training.arguments.ppo import PPOArgs
from training.arguments.self_check import SelfCheckArgs
from training.data.chat import tokenize_plain
from training.data.encode import EncodedPrompt
from training.models.loading import count_positions, load_config
from training.models.tiny import write_random_scorer, write_tiny_lm
from training.models.tokenizers import Tokenizer
from training.preflight.checks import Check, SelfCheck
from training.runtime.distributed import World
from training.trainers.ppo.setup import Models, check_stages, load_models

logger = logging.getLogger(__name__)

CHECKED_PROMPTS = 8  # by --self_check of stage 3

# Of many lengths, so that batches have padding.
TEXTS = (
    "Why is the sky blue?",
    "Tell me about a garden.",
    "Hello",
    "What is the difference between a violin and a viola, and which one is older?",
    "Write one sentence about the sea.",
    "How do I boil an egg so that its yolk stays soft? Answer in a few words.",
    "Name three colours.",
    "I cannot sleep. What should I do?",
)


def run_self_check(
    args: PPOArgs,
    world: World,
    tokenizer: Tokenizer,
    models: Models,
    prompts: Sequence[EncodedPrompt],
) -> None:
    """Run the checks on loaded models and log their table. Every rank calls this.

    Raises `GuardStop` if a check failed.
    """
    checks = SelfCheck(args, world, tokenizer, models, prompts).run()
    logger.info("%s", format_table(checks))
    failed = [check.name for check in checks if not check.is_ok]
    if failed:
        raise GuardStop(
            f"self-check: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}"
        )


def check_folders(args: SelfCheckArgs, world: World, scratch: Path) -> None:
    """Check the models that the flags name, else tiny ones that are written to `scratch`."""
    model = args.model or write_tiny_lm(scratch / "model", seed=args.seed)
    config = load_config(model, flag="--model", hint="name a folder of stage 1, or any causal LM")
    reward_model = args.reward_model or write_random_scorer(
        model, scratch / "reward_model", flag="--model"
    )
    limit = count_positions(config) or 2**30
    new_tokens = min(args.max_new_tokens, max(limit // 2, 1))
    ppo_args = PPOArgs(
        output_dir=str(scratch / "output"),
        actor_model_name_or_path=model,
        reward_model_name_or_path=reward_model,
        seed=args.seed,
        dtype=args.dtype,
        zero_stage=args.zero_stage,
        cpu_blocks=args.cpu_blocks,
        micro_batch_tokens=args.micro_batch_tokens,
        max_new_tokens=new_tokens,
        max_prompt_length=min(64, limit - new_tokens),
        rollout_batch_size=args.prompts * world.size,
        minibatch_size=args.prompts * world.size,
        critic="shared",  # one model less to load
    )
    try:
        tokenizer, settings = check_stages(ppo_args, world)
        models = load_models(ppo_args, world, tokenizer, settings)
    except UserError as error:  # it names stage 3's flags
        text = str(error).replace("--actor_model_name_or_path", "--model")
        raise UserError(text.replace("--reward_model_name_or_path", "--reward_model")) from error
    prompts = make_prompts(tokenizer, args.prompts, longest=ppo_args.max_prompt_length)
    run_self_check(ppo_args, world, tokenizer, models, prompts)


def make_prompts(tokenizer: Tokenizer, count: int, *, longest: int) -> list[EncodedPrompt]:
    """Encode `count` prompts by repeating `TEXTS`, the last `longest` tokens of each."""
    rows = [ids for ids in tokenize_plain(tokenizer, TEXTS) if ids]
    if not rows:
        raise UserError("--model: its tokenizer makes no tokens of plain English")
    return [
        EncodedPrompt(index, rows[index % len(rows)][-longest:], "", {}) for index in range(count)
    ]


def format_table(checks: Sequence[Check]) -> str:
    """Format one line per check, and a hint for each that failed."""
    width = max(len(check.name) for check in checks)
    lines = [f"{'check':<{width}}  {'measured':>10}  {'bound':>10}  ok"]
    for check in checks:
        bound = f"{'>=' if check.at_least else '<='} {check.bound:.3g}"
        ok = "yes" if check.is_ok else "NO"
        lines.append(f"{check.name:<{width}}  {check.measured:>10.3g}  {bound:>10}  {ok}")
    hints = [f"{check.name}: {check.hint}" for check in checks if not check.is_ok]
    return "\n".join([*lines, *hints])
