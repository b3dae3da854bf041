"""Read and check everything that `evaluate.py` is given, before any weights are loaded."""

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
from training.data.chat import add_templates
from training.data.encode import EncodedGroup, EncodedPrompt, collect_rows, encode_groups
from training.data.records import Prompt, parse_demonstration, parse_group, parse_prompt
from training.data.sources import read_rows
from training.evaluation.judge_file import load_judge_file
from training.evaluation.loading import check_positions, check_reward_model, tokenize_prompts
from training.evaluation.sampling import check_language_model
from training.judge import Judge
from training.models.loading import Config, count_positions
from training.models.scalar import ScalarSettings
from training.models.tokenizers import Tokenizer

logger = logging.getLogger(__name__)

UNLIMITED_LENGTH = 1024  # of a comparison, if the reward model has no limit


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
    """Two sides with the same prompts in the same order, and their judges."""

    before: Side
    after: Side
    texts: list[str]  # the prompts as the user wrote them
    groups: list[str]  # the group of each prompt; intervals resample groups
    given: list[str] | None  # what judges read before each response
    human: list[str]  # people's answers, as a judge would read them
    judges: dict[str, Judge]
    scorer: ScalarSettings | None  # of the reward model
    comparisons: list[EncodedGroup]
    notes: Mapping[str, Sequence[str]] | None


def read_inputs(args: EvaluateArgs) -> Inputs:
    """Read the flags' files; raises UserError for what cannot be evaluated."""
    tokenizers = {}
    for name in ("before", "after"):
        config, tokenizers[name] = check_language_model(getattr(args, name), flag=f"--{name}")
        check_positions(args, config)
    scorer, comparisons = None, []
    if path := args.reward_model_name_or_path:
        scorer, config = check_reward_model(
            path,
            {getattr(args, name): tokenizer for name, tokenizer in tokenizers.items()},
            flag="--reward_model_name_or_path",
        )
        check_positions(args, config)
        comparisons = _read_comparisons(args, tokenizers["before"], config)
    if args.reader_model_name_or_path:
        check_language_model(args.reader_model_name_or_path, flag="--reader_model_name_or_path")
    numbered = _read_prompts(args)
    encoded = {
        name: tokenize_prompts(args, numbered, tokenizer, name=f"prompts for {name}")
        for name, tokenizer in tokenizers.items()
    }
    kept = set.intersection(*({p.prompt_id for p in prompts} for prompts in encoded.values()))
    records = [record for prompt_id, record in numbered.items() if prompt_id in kept]
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
    given = [_cut_prompt(r, args.judge_text_after) if reads_prompt else "" for r in records]
    return Inputs(
        **sides,
        texts=[record.text for record in records],
        groups=[_find_group(record, args.group_by) for record in records],
        given=given if reads_prompt else None,
        human=_read_human_answers(args, dict(zip((r.text for r in records), given, strict=True))),
        judges=load_judge_file(args.judge[0], args.judge[1:]) if args.judge else {},
        scorer=scorer,
        comparisons=comparisons,
        notes=_read_notes(args.notes),
    )


def _read_comparisons(
    args: EvaluateArgs, tokenizer: Tokenizer, config: Config
) -> list[EncodedGroup]:
    if not args.comparisons_path:
        return []
    convert = partial(convert_if_export, args=args)
    rows = read_rows(args.comparisons_path, stage="reward", split=args.split, convert=convert)
    limit = count_positions(config) or UNLIMITED_LENGTH
    outcomes = encode_groups(
        [parse_group(row, source) for row, source in rows],
        add_templates(tokenizer, args),
        max_length=limit,
    )
    groups, report = collect_rows(outcomes, f"the {limit} tokens of --reward_model_name_or_path")
    logger.info("comparisons: %s", report.summarize())
    return groups


def _read_prompts(args: EvaluateArgs) -> dict[int, Prompt]:
    """Read prompts by their number in the data."""
    rows = read_rows(args.data_path, stage="ppo", split=args.split)
    records = [parse_prompt(row, source) for row, source in rows]
    count = min(args.max_prompts or len(records), len(records))
    prompt_ids = [index * len(records) // count for index in range(count)]
    return {prompt_id: records[prompt_id] for prompt_id in prompt_ids}


def _read_human_answers(args: EvaluateArgs, given: Mapping[str, str]) -> list[str]:
    """Read people's answers to these prompts; `given` is what judges read before, by prompt."""
    if not args.human_path:
        return []
    rows = read_rows(args.human_path, stage="sft", split=args.split)
    answers = [parse_demonstration(row, source) for row, source in rows]
    texts = [given[answer.prompt] + answer.response for answer in answers if answer.prompt in given]
    if not texts:
        raise UserError(f"--human_path: none of its {len(answers)} rows answers one of the prompts")
    return texts


def _find_group(record: Prompt, field: str) -> str:
    """Return the field's value; without a field each prompt is its own group."""
    if not field:
        return record.text
    if field not in record.fields:
        known = ", ".join(sorted(record.fields)) or "no text field beside the prompt"
        raise UserError(f"{record.source}: no field {field!r} for --group_by; the row has {known}")
    return record.fields[field]


def _cut_prompt(record: Prompt, after: str) -> str:
    """Return the prompt from behind the last `after` in it."""
    if not after:
        return record.text
    _, separator, rest = record.text.rpartition(after)
    if not separator:
        raise UserError(f"{record.source}: the prompt has no {after!r} (--judge_text_after)")
    return rest.lstrip()


def _read_notes(path: str) -> Mapping[str, Sequence[str]] | None:
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
