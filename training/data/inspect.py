"""Look at data before training on it: errors, duplicates, conflicts, lengths, leaks.

python -m training.data.inspect PATH [PATH ...] [--tokenizer_name_or_path output/step1_sft]

Every bad row is listed by file and line, not only the first. Exit status 2 when there is one.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from training.arguments.inspection import InspectArgs
from training.arguments.parsing import UserError, add_first_flag, exit_with_user_error, parse_args
from training.data import encode, records
from training.data.annotation.convert import convert_if_export
from training.data.chat import TemplateTokenizer, add_templates
from training.data.contamination import NGRAM, extract_prompt, find_shared_texts, hash_prompt
from training.data.files import Row, format_json, write_text
from training.data.records import Prompt, Record, ResponseGroup, Text, list_sequences
from training.data.sources import read_rows
from training.paths import not_there

BINS = 8  # of the histogram of lengths

PARSERS: dict[str, Callable[[Any, str], Record]] = {
    "sft": records.parse_sft_row,
    "reward": records.parse_group,
    "ppo": records.parse_prompt,
    "pretrain": records.parse_text,
}


@dataclass
class Findings:
    """The rows of some data and the mistakes in them."""

    records: list[Record]
    stage: str
    rows: int
    errors: list[str]
    duplicates: list[str]  # "source = source"
    conflicts: list[str]
    leaks: list[str]
    length_unit: str
    lengths: list[int]
    longest: int
    over_max_length: int

    def make_report(self) -> dict[str, Any]:
        report = vars(self) | {"lengths": dict(count_by_length(self.lengths))}
        return {name: value for name, value in report.items() if name != "records"}


def inspect(args: InspectArgs) -> Findings:
    """Read all rows of --data_path, and compare them with those of --eval_data_path."""
    errors: list[str] = []
    rows = _read_rows(args, args.data_path, "train", errors)
    stage = args.stage if args.stage != "auto" or not rows else _guess_stage(rows[0])
    row_count = len(rows) + len(errors)
    parsed = parse_records(rows, stage, errors)
    lengths: list[int] = []
    over_max_length = 0
    if args.tokenizer_name_or_path:
        tokenizer = add_templates(_load_tokenizer(args.tokenizer_name_or_path), args)
        for record in parsed:
            try:
                lengths += count_record_tokens(record, tokenizer)
            except UserError as error:  # the chat template refuses the conversation
                errors.append(str(error))
        over_max_length = sum(length > args.max_length for length in lengths)
    else:
        texts = [sequence for record in parsed for sequence in list_sequences(record)]
        lengths = [len(prompt) + len(response) for prompt, response in texts]
    leaks: list[str] = []
    if args.eval_data_path:
        rows = _read_rows(args, args.eval_data_path, "dev", errors)
        leaks = find_leaks(parsed, parse_records(rows, stage, errors))
    return Findings(
        parsed,
        stage,
        row_count,
        errors,
        find_duplicates(parsed),
        find_conflicts(parsed),
        leaks,
        length_unit="tokens" if args.tokenizer_name_or_path else "characters",
        lengths=lengths,
        longest=max(lengths, default=0),
        over_max_length=over_max_length,
    )


def _read_rows(args: InspectArgs, paths: Sequence[str], split: str, errors: list[str]) -> list[Row]:
    """Read the rows that can be read; the mistakes of the others go to `errors`."""
    if args.stage == "auto" and any(path.endswith(".txt") for path in paths):
        raise UserError("a .txt file may hold prompts or texts: give --stage ppo or pretrain")
    stage = "reward" if args.stage == "auto" else args.stage
    convert = partial(convert_if_export, args=args) if stage == "reward" else None

    def fail(error: UserError) -> None:
        errors.append(str(error))

    return list(read_rows(paths, stage=stage, split=split, convert=convert, fail=fail))


def _guess_stage(row: Row) -> str:
    values, source = row
    if "chosen" in values or "pairs" in values:
        return "reward"
    if "response" in values or "messages" in values:
        return "sft"
    if "text" in values:
        return "pretrain"
    if "prompt" in values:
        return "ppo"
    raise UserError(
        f"{source}: no stage has rows of the columns {sorted(map(str, values))}; name one with "
        "--stage to see what it misses"
    )


def parse_records(rows: Sequence[Row], stage: str, errors: list[str]) -> list[Record]:
    """Parse all good rows; the mistakes of the others go to `errors`."""
    parsed = []
    for row, source in rows:
        try:
            parsed.append(PARSERS[stage](row, source))
        except UserError as error:
            errors.append(str(error))
    return parsed


def find_duplicates(rows: Sequence[Record]) -> list[str]:
    """List records with the content of an earlier one."""
    first: dict[Any, str] = {}
    duplicates = []
    for record in rows:
        content = _extract_content(record)
        if content in first:
            duplicates.append(f"{record.source} = {first[content]}")
        first.setdefault(content, record.source)
    return duplicates


def find_conflicts(rows: Sequence[Record]) -> list[str]:
    """List comparisons that are in the data both ways round."""
    first: dict[tuple[str, str, str], str] = {}
    conflicts = []
    groups = [record for record in rows if isinstance(record, ResponseGroup)]
    for record in groups:
        for pair in record.pairs:
            if pair.label == 0.5:
                continue
            sides = (pair.chosen, pair.rejected)[:: 1 if pair.label > 0.5 else -1]
            better, worse = (record.responses[side] for side in sides)
            opposite = first.get((record.prompt, worse, better))
            if opposite is not None:
                conflicts.append(f"{record.source} against {opposite}")
            first.setdefault((record.prompt, better, worse), record.source)
    return conflicts


def find_leaks(train: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
    """List training rows that --decontaminate would drop; see `contamination`."""
    source_of = {hash_prompt(extract_prompt(record)): record.source for record in held_out}
    leaks, texts = [], []
    for record in train:
        source = source_of.get(hash_prompt(extract_prompt(record)))
        if source:
            leaks.append(f"{record.source} = {source}")
        elif isinstance(record, Text):
            texts.append(record)
    train_texts, held_out_texts = (map(extract_prompt, rows) for rows in (texts, held_out))
    shared = find_shared_texts(train_texts, held_out_texts) if texts else []
    words = f"shares {NGRAM} words in a row with held-out data"
    return leaks + [f"{texts[index].source} {words}" for index in shared]


def count_by_length(lengths: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield counts by length, in at most BINS ranges of doubling width."""
    if not lengths:
        return
    edges = [1]
    while edges[-1] <= max(lengths):
        edges.append(edges[-1] * 2)
    for low, high in pairwise([0, *edges[-BINS:]]):
        count = sum(low <= length < high for length in lengths)
        if count:
            yield f"{low}-{high - 1}", count


def _extract_content(record: Record) -> Any:
    """Return all of a record but its source, as a key."""
    if isinstance(record, records.Conversation):
        return record.messages
    if isinstance(record, ResponseGroup):
        return record.prompt, frozenset(
            (record.responses[pair.chosen], record.responses[pair.rejected], pair.label)
            for pair in record.pairs
        )
    return tuple(list_sequences(record))


def count_record_tokens(record: Record, tokenizer: TemplateTokenizer) -> list[int]:
    """Count the tokens of each sequence that a stage makes of a record, before anything is cut.

    Empty if the record has nothing to learn from. Raises `UserError` if the chat template refuses
    a conversation.
    """
    most = sys.maxsize
    outcomes: Sequence[encode.Outcome[Any]]
    if isinstance(record, Text):
        outcomes = encode.encode_texts([record], tokenizer)
    elif isinstance(record, Prompt):
        outcomes = encode.encode_prompts(
            [record], tokenizer, max_prompt_length=most, overlong="error"
        )
    elif isinstance(record, ResponseGroup):
        outcomes = encode.encode_groups([record], tokenizer, max_length=most)
    else:
        outcomes = encode.encode_dialogues([record], tokenizer, max_length=most)
    (outcome,) = outcomes
    return encode.count_tokens(outcome.row) if outcome.row is not None else []


def _load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a bare one for a file that it cannot read
        is_here = Path(path).expanduser().exists()
        reason = f"{path}: {' '.join(str(error).split())}" if is_here else not_there(path)
        raise UserError(
            f"--tokenizer_name_or_path: no tokenizer can be loaded from {reason}"
        ) from error


def format_findings(findings: Findings, max_length: int, show: int) -> list[str]:
    kinds = Counter(type(record).__name__ for record in findings.records)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none readable"
    lines = [f"stage {findings.stage}: {findings.rows} rows, {counts}"]
    for title, texts in (
        ("bad rows", findings.errors),
        ("duplicates", findings.duplicates),
        ("conflicts (a comparison both ways)", findings.conflicts),
        ("training rows that are held out too", findings.leaks),
    ):
        if texts:
            lines += [f"{title}: {len(texts)}", *(f"  {text}" for text in texts[:show])]
        if len(texts) > show:
            lines.append(f"  and {len(texts) - show} more (--show N, or --report FILE)")
    lines.append(f"lengths in {findings.length_unit}:")
    lines += [f"  {bounds}: {count}" for bounds, count in count_by_length(findings.lengths)]
    if findings.over_max_length:
        lines.append(f"over --max_length {max_length}, to be cut: {findings.over_max_length}")
    return lines


def main() -> None:
    args = parse_args(InspectArgs, add_first_flag("--data_path", sys.argv[1:]))
    try:
        findings = inspect(args)
        if args.report:
            write_text(args.report, format_json(findings.make_report()), "--report")
    except UserError as error:
        exit_with_user_error("inspect", str(error))
    sys.stdout.write("\n".join(format_findings(findings, args.max_length, args.show)) + "\n")
    if findings.errors:
        raise SystemExit(2)


if __name__ == "__main__":
    main()
