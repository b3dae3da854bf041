"""Check models and read prompts for the tools that sample from saved models."""

import logging
from collections.abc import Mapping

from training.arguments.sampling import PromptArgs
from training.data.chat import add_templates
from training.data.encode import EncodedPrompt, collect_rows, encode_prompts
from training.data.records import Prompt
from training.models.loading import Config, check_fits, load_config
from training.models.scalar import ScalarSettings, find_backbone, read_settings
from training.models.tokenizers import Tokenizer, check_same_tokenizer, load_tokenizer
from training.runtime.publish import check_complete

logger = logging.getLogger(__name__)


def check_positions(args: PromptArgs, config: Config, *, note: str = "") -> None:
    """Refuse lengths of prompt and response that the model has no positions for."""
    check_fits(
        config,
        args.max_prompt_length + args.max_new_tokens,
        flags=f"--max_prompt_length {args.max_prompt_length} and --max_new_tokens "
        f"{args.max_new_tokens}{note} can",
    )


def check_reward_model(
    path: str, tokenizers: Mapping[str, Tokenizer], *, flag: str
) -> tuple[ScalarSettings, Config]:
    """Check a reward model of stage 2 by its files; `tokenizers` of the policies, by their path."""
    hint = "give a folder of stage 2"
    settings = read_settings(path, flag=flag, hint=hint)
    check_complete(path, flag=flag, hint="wait for it, or start it again")
    tokenizer = load_tokenizer(path, flag=flag)
    for policy, other in tokenizers.items():
        check_same_tokenizer(other, tokenizer, policy, path)
    return settings, load_config(find_backbone(path, settings), flag=flag, hint=hint)


def tokenize_prompts(
    args: PromptArgs, records: Mapping[int, Prompt], tokenizer: Tokenizer, *, name: str
) -> list[EncodedPrompt]:
    """Encode prompts by their number in the data; log how many fit, under `name`."""
    outcomes = encode_prompts(
        list(records.values()),
        add_templates(tokenizer, args),
        max_prompt_length=args.max_prompt_length,
        overlong=args.overlong_prompts,
        prompt_ids=records,
    )
    limit = f"--max_prompt_length {args.max_prompt_length}"
    prompts, report = collect_rows(outcomes, limit)
    logger.info("%s: %s", name, report.summarize())
    return prompts
