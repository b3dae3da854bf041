"""What `evaluate.py` was given, read and checked before any weight is loaded."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from training.arguments.evaluate import EvaluateArgs
from training.arguments.parsing import UserError
from training.data.annotation.convert import convert_if_export
from training.data.chat import load_chat_template
from training.data.encode import (
    EncodedGroup,
    EncodedPrompt,
    check_prompt_template,
    encode_groups,
    encode_prompts,
)
from training.data.outcomes import collect_rows
from training.data.records import (
    Prompt,
    parse_demonstration,
    parse_group,
    parse_prompt,
)
from training.data.sources import read_rows
from training.evaluation.judge_file import load_judge_file
from training.evaluation.sampling import check_language_model
from training.judge import Judge
from training.models.loading import Config, check_fits, count_positions, load_config
from training.models.scalar import BACKBONE_FOLDER, ScalarSettings, read_settings
from training.models.tokenizers import (
    Tokenizer,
    check_same_tokenizer,
    has_same_tokens,
    load_tokenizer,
)
from training.runtime.publish import check_complete

logger = logging.getLogger(__name__)

UNLIMITED_LENGTH = 1024  # of a comparison, where the reward model names no limit of its own


@dataclass(frozen=True)
class Side:
    """One of the two models, and the prompts in its tokens."""

    name: str  # "before" or "after"; the flag's name
    path: str
    tokenizer: Tokenizer
    prompts: list[EncodedPrompt]

    @property
    def prompt_ids(self) -> list[list[int]]:
        return [prompt.input_ids for prompt in self.prompts]


@dataclass(frozen=True)
class Inputs:
    """Two sides with the same prompts in the same order, and who judges them."""

    before: Side
    after: Side
    texts: list[str]  # the prompts as the user wrote them
    groups: list[str]  # what the intervals resample
    given: list[str] | None  # what judges read before a response
    human: list[str]  # what a judge would read of the answers that people gave
    judges: dict[str, Judge]
    scorer: ScalarSettings | None  # of the reward model
    comparisons: list[EncodedGroup]
    notes: Mapping[str, Sequence[str]] | None

    @property
    def share_tokens(self) -> bool:
        """Whether one side can read the other's tokens, so that there is a KL."""
        return has_same_tokens(self.before.tokenizer, self.after.tokenizer)


def read_inputs(args: EvaluateArgs) -> Inputs:
    """Everything that flags and files can tell."""
    tokenizers = {
        name: _checked_model(args, getattr(args, name), f"--{name}") for name in ("before", "after")
    }
    scorer, comparisons = None, []
    if args.reward_model_name_or_path:
        scorer, config = _checked_scorer(args, tokenizers)
        comparisons = _comparisons(args, tokenizers["before"], config)
    if args.reader_model_name_or_path:
        check_language_model(args.reader_model_name_or_path, flag="--reader_model_name_or_path")
    records = _prompts(args)
    encoded = {
        name: _encoded(args, records, tokenizer, name) for name, tokenizer in tokenizers.items()
    }
    kept = set.intersection(*({p.prompt_id for p in prompts} for prompts in encoded.values()))
    records = [record for record in records if record.prompt_id in kept]
    sides = {
        name: Side(
            name,
            getattr(args, name),
            tokenizers[name],
            [prompt for prompt in prompts if prompt.prompt_id in kept],
        )
        for name, prompts in encoded.items()
    }
    reads_prompt = args.judge_text == "prompt_and_response"
    given = [_given(r, args.judge_text_after) if reads_prompt else "" for r in records]
    return Inputs(
        **sides,
        texts=[record.text for record in records],
        groups=[_group(record, args.group_by) for record in records],
        given=given if reads_prompt else None,
        human=_human(args, dict(zip((r.text for r in records), given, strict=True))),
        judges=load_judge_file(args.judge[0], args.judge[1:]) if args.judge else {},
        scorer=scorer,
        comparisons=comparisons,
        notes=_notes(args.notes),
    )


def _checked_model(args: EvaluateArgs, path: str, flag: str) -> Tokenizer:
    config, tokenizer = check_language_model(path, flag=flag)
    _check_room(args, config)
    return tokenizer


def _check_room(args: EvaluateArgs, config: Config) -> None:
    check_fits(
        config,
        args.max_prompt_length + args.max_new_tokens,
        flags=f"--max_prompt_length {args.max_prompt_length} and --max_new_tokens "
        f"{args.max_new_tokens} can",
    )


def _checked_scorer(
    args: EvaluateArgs, tokenizers: Mapping[str, Tokenizer]
) -> tuple[ScalarSettings, Config]:
    """The reward model's settings and config."""
    path, flag = args.reward_model_name_or_path, "--reward_model_name_or_path"
    settings = read_settings(path, flag=flag, hint="give a folder of stage 2")
    check_complete(path, flag=flag, hint="wait for it, or start it again")
    tokenizer = load_tokenizer(path, flag=flag)
    for name, other in tokenizers.items():
        check_same_tokenizer(other, tokenizer, getattr(args, name), path)
    folder = path if settings.is_plain else str(Path(path) / BACKBONE_FOLDER)
    config = load_config(folder, flag=flag, hint="give a folder of stage 2")
    _check_room(args, config)
    return settings, config


def _comparisons(args: EvaluateArgs, tokenizer: Tokenizer, config: Config) -> list[EncodedGroup]:
    if not args.comparisons_path:
        return []
    convert = partial(convert_if_export, args=args)
    rows = read_rows(args.comparisons_path, stage="reward", split=args.split, convert=convert)
    room = count_positions(config) or UNLIMITED_LENGTH
    outcomes = encode_groups(
        [parse_group(row, source) for row, source in rows],
        tokenizer,
        max_length=room,
        prompt_template=check_prompt_template(args.prompt_template),
        chat_template=load_chat_template(args.chat_template),
    )
    groups, report = collect_rows(outcomes, f"the {room} tokens of --reward_model_name_or_path")
    logger.info("comparisons: %s", report.summary())
    return groups


def _prompts(args: EvaluateArgs) -> list[Prompt]:
    rows = read_rows(args.data_path, stage="ppo", split=args.split)
    records = [parse_prompt(row, source, index) for index, (row, source) in enumerate(rows)]
    count = min(args.max_prompts or len(records), len(records))
    return [records[index * len(records) // count] for index in range(count)]


def _encoded(
    args: EvaluateArgs, records: Sequence[Prompt], tokenizer: Tokenizer, name: str
) -> list[EncodedPrompt]:
    outcomes = encode_prompts(
        records,
        tokenizer,
        max_prompt_length=args.max_prompt_length,
        prompt_template=check_prompt_template(args.prompt_template),
        chat_template=load_chat_template(args.chat_template),
        overlong=args.overlong_prompts,
    )
    prompts, report = collect_rows(outcomes, f"--max_prompt_length {args.max_prompt_length}")
    logger.info("prompts for %s: %s", name, report.summary())
    return prompts


def _human(args: EvaluateArgs, given: Mapping[str, str]) -> list[str]:
    """What people answered to these prompts, as judges would read it."""
    if not args.human_path:
        return []
    rows = read_rows(args.human_path, stage="sft", split=args.split)
    answers = [parse_demonstration(row, source) for row, source in rows]
    texts = [given[answer.prompt] + answer.response for answer in answers if answer.prompt in given]
    if not texts:
        raise UserError(f"--human_path: none of its {len(answers)} rows answers one of the prompts")
    return texts


def _group(record: Prompt, field: str) -> str:
    """The field's value; without a field, a prompt stands for itself."""
    if not field:
        return record.text
    if field not in record.fields:
        known = ", ".join(sorted(record.fields)) or "no text field beside the prompt"
        raise UserError(f"{record.source}: no field {field!r} for --group_by; the row has {known}")
    return record.fields[field]


def _given(record: Prompt, after: str) -> str:
    """The prompt, or what follows the last `after` in it."""
    if not after:
        return record.text
    _, found, rest = record.text.rpartition(after)
    if not found:
        raise UserError(f"{record.source}: the prompt has no {after!r} (--judge_text_after)")
    return rest.lstrip()


def _notes(path: str) -> Mapping[str, Sequence[str]] | None:
    if not path:
        return None
    try:
        notes: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--notes: {path} is not JSON: {error}") from error
    keys = ("shows", "does_not_show")
    if not isinstance(notes, dict) or any(not isinstance(notes.get(key, []), list) for key in keys):
        raise UserError(f"--notes: {path} must hold an object with lists {' and '.join(keys)}")
    return {key: [str(note) for note in notes.get(key, [])] for key in keys}
