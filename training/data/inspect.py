"""Look at data before training on it: errors, duplicates, conflicts, lengths, leaks.

python -m training.data.inspect PATH [PATH ...] [--tokenizer_name_or_path output/step1_sft]

Every bad row is listed by file and line, not only the first. Exit status 2 when there is one.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from training.arguments.inspection import InspectArgs
from training.arguments.parsing import UserError, exit_with_user_error, parse_args, with_flag
from training.data.annotation.convert import convert_if_export
from training.data.contamination import NGRAM, extract_prompt, find_shared_texts, hash_prompt
from training.data.files import Row, format_json, write_text
from training.data.records import (
    Conversation,
    Demonstration,
    Record,
    ResponseGroup,
    Text,
    list_sequences,
    parse_group,
    parse_prompt,
    parse_sft_row,
    parse_text,
)
from training.data.sources import read_rows
from training.paths import not_there

BINS = 8  # of the histogram of lengths

FROM_ROW: dict[str, Callable[[Any, str], Record]] = {
    "sft": parse_sft_row,
    "reward": parse_group,
    "ppo": parse_prompt,
    "pretrain": parse_text,
}


@dataclass
class Findings:
    """What one look at the data has found."""

    stage: str
    rows: int
    errors: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)  # "source = source"
    conflicts: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    unit: str = "characters"
    over_limit: int = 0
    leaks: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "rows": self.rows,
            "errors": self.errors,
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
            "leaks": self.leaks,
            "length_unit": self.unit,
            "lengths": dict(histogram(self.lengths)),
            "longest": max(self.lengths, default=0),
            "over_max_length": self.over_limit,
        }


def inspect(args: InspectArgs) -> Findings:
    """Read all rows of --data_path, and compare them with those of --eval_data_path."""
    errors: list[str] = []
    rows = _rows(args, args.data_path, "train", errors)
    stage = args.stage if args.stage != "auto" or not rows else _stage_of(rows[0])
    findings = Findings(stage, len(rows) + len(errors), errors)
    findings.records = checked(rows, stage, errors)
    findings.duplicates = duplicates(findings.records)
    findings.conflicts = conflicts(findings.records)
    measure, findings.unit = _measure(args)
    for record in findings.records:
        try:
            findings.lengths += measure(record)
        except UserError as error:  # the chat template refuses the conversation
            errors.append(str(error))
    if args.tokenizer_name_or_path:
        findings.over_limit = sum(length > args.max_length for length in findings.lengths)
    if args.eval_data_path:
        rows = _rows(args, args.eval_data_path, "dev", errors)
        findings.leaks = leaks(findings.records, checked(rows, stage, errors))
    return findings


def _rows(args: InspectArgs, paths: Sequence[str], split: str, errors: list[str]) -> list[Row]:
    """The rows that can be read; what is wrong with the others goes to `errors`."""
    if args.stage == "auto" and any(path.endswith(".txt") for path in paths):
        raise UserError("a .txt file may hold prompts or texts: give --stage ppo or pretrain")
    stage = "reward" if args.stage == "auto" else args.stage
    convert = partial(convert_if_export, args=args) if stage == "reward" else None

    def note(error: UserError) -> None:
        errors.append(str(error))

    return list(read_rows(paths, stage=stage, split=split, convert=convert, fail=note))


def _stage_of(row: Row) -> str:
    """The stage whose rows have these columns."""
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


def checked(rows: Sequence[Row], stage: str, errors: list[str]) -> list[Record]:
    """The records of all good rows; what is wrong with the others goes to `errors`."""
    records = []
    for row, source in rows:
        try:
            records.append(FROM_ROW[stage](row, source))
        except UserError as error:
            errors.append(str(error))
    return records


def duplicates(records: Sequence[Record]) -> list[str]:
    """Records that say what an earlier one has said."""
    first: dict[Any, str] = {}
    found = []
    for record in records:
        key = _content(record)
        if key in first:
            found.append(f"{record.source} = {first[key]}")
        first.setdefault(key, record.source)
    return found


def conflicts(records: Sequence[Record]) -> list[str]:
    """Comparisons that stand in the data both ways round."""
    first: dict[tuple[str, str, str], str] = {}
    found = []
    for record in records:
        if not isinstance(record, ResponseGroup):
            continue
        for pair in record.pairs:
            if pair.label == 0.5:
                continue
            sides = (pair.chosen, pair.rejected)[:: 1 if pair.label > 0.5 else -1]
            better, worse = (record.responses[side] for side in sides)
            opposite = first.get((record.prompt, worse, better))
            if opposite is not None:
                found.append(f"{record.source} against {opposite}")
            first.setdefault((record.prompt, better, worse), record.source)
    return found


def leaks(train: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
    """Training rows that --decontaminate would leave out; see `contamination`."""
    held = {hash_prompt(extract_prompt(record)): record.source for record in held_out}
    found, others = [], []
    for record in train:
        source = held.get(hash_prompt(extract_prompt(record)))
        if source:
            found.append(f"{record.source} = {source}")
        else:
            others.append(record)
    texts = [record for record in others if isinstance(record, Text)]
    places = (
        find_shared_texts(map(extract_prompt, texts), map(extract_prompt, held_out))
        if texts
        else []
    )
    shared = f"shares {NGRAM} words in a row with held-out data"
    return found + [f"{texts[place].source} {shared}" for place in places]


def histogram(lengths: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Counts by length, in at most BINS ranges of doubling width."""
    if not lengths:
        return
    edges = [1]
    while edges[-1] <= max(lengths):
        edges.append(edges[-1] * 2)
    edges = [0, *edges[-BINS:]]
    for low, high in pairwise(edges):
        count = sum(low <= length < high for length in lengths)
        if count:
            yield f"{low}-{high - 1}", count


def _content(record: Record) -> Any:
    """All that a record says, without where it stands."""
    if isinstance(record, Demonstration):
        return record.prompt, record.response
    if isinstance(record, Conversation):
        return record.messages
    if isinstance(record, ResponseGroup):
        return record.prompt, frozenset(
            (record.responses[pair.chosen], record.responses[pair.rejected], pair.label)
            for pair in record.pairs
        )
    return record.text


def _measure(args: InspectArgs) -> tuple[Callable[[Record], list[int]], str]:
    """From a record to the lengths of its sequences: in tokens, as a stage makes them, uncut."""
    if not args.tokenizer_name_or_path:
        return _characters, "characters"
    from training.data.chat import load_chat_template
    from training.data.outcomes import count_record_tokens

    tokens = partial(
        count_record_tokens,
        tokenizer=_tokenizer(args.tokenizer_name_or_path),
        prompt_template=args.prompt_template,
        chat_template=load_chat_template(args.chat_template),
    )
    return tokens, "tokens"


def _characters(record: Record) -> list[int]:
    return [len(prompt) + len(response) for prompt, response in list_sequences(record)]


def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a bare one for a file that it cannot read
        is_here = Path(path).expanduser().exists()
        reason = f"{path}: {' '.join(str(error).split())}" if is_here else not_there(path)
        raise UserError(
            f"--tokenizer_name_or_path: no tokenizer can be loaded from {reason}"
        ) from error


def in_words(findings: Findings, max_length: int, show: int) -> list[str]:
    """The findings for a terminal."""
    kinds = Counter(type(record).__name__ for record in findings.records)
    lines = [
        f"stage {findings.stage}: {findings.rows} rows, "
        + (", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none readable")
    ]
    for title, found in (
        ("bad rows", findings.errors),
        ("duplicates", findings.duplicates),
        ("conflicts (a comparison both ways)", findings.conflicts),
        ("training rows that are held out too", findings.leaks),
    ):
        if found:
            lines.append(f"{title}: {len(found)}")
            lines += [f"  {text}" for text in found[:show]]
            rest = len(found) - show
            lines += [f"  and {rest} more (--show N, or --report FILE)"] if rest > 0 else []
    lines.append(f"lengths in {findings.unit}:")
    lines += [f"  {bounds}: {count}" for bounds, count in histogram(findings.lengths)]
    if findings.over_limit:
        lines.append(f"over --max_length {max_length}, to be cut: {findings.over_limit}")
    return lines


def main() -> None:
    args = parse_args(InspectArgs, with_flag("--data_path", sys.argv[1:]))
    try:
        findings = inspect(args)
        if args.report:
            write_text(args.report, format_json(findings.as_json()), "--report")
    except UserError as error:
        exit_with_user_error("inspect", str(error))
    sys.stdout.write("\n".join(in_words(findings, args.max_length, args.show)) + "\n")
    if findings.errors:
        raise SystemExit(2)


if __name__ == "__main__":
    main()
