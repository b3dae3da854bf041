"""Accuracy by the number of training prompts: the data of each run, and the curve of them all."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from training.arguments.data_size_curve import DataSizeCurveArgs
from training.arguments.parsing import UserError
from training.arguments.reward import RewardArgs
from training.data.annotation.convert import convert_if_export
from training.data.encode import EncodedGroup
from training.data.groups import take_prompts
from training.data.sources import read_rows
from training.data.stages import load_comparisons
from training.evaluation.page import write_page
from training.evaluation.reward_model.page import make_accuracy_row, render_accuracies
from training.evaluation.reward_model.report import FILE as EVALUATION_FILE
from training.models.tokenizers import Tokenizer

CURVE_FILE, PAGE_FILE = "data_size_curve.json", "report.html"
TITLE = "Accuracy on the same held-out comparisons, trained on nested shares of the prompts"


def write_rows(
    args: DataSizeCurveArgs, stage: RewardArgs, tokenizer: Tokenizer
) -> dict[float, tuple[Path, Path]]:
    """Write the training rows of each share and the held-out rows that all shares have in common.

    Returns (training file, held-out file) by share. Both are JSON Lines. Raises `UserError` if
    nothing is held out.
    """
    data = load_comparisons(stage, tokenizer)
    if not len(data.held_out):
        raise UserError("nothing is held out: raise --eval_fraction, or give --eval_data_path")
    rows = _read(stage, stage.data_path, "train")
    if any(group.source not in rows for group in data.held_out):
        rows |= _read(stage, stage.eval_data_path or stage.data_path, "dev")
    folder = Path(args.output_dir) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    held_out = _write(folder / "held_out.jsonl", rows, data.held_out)
    files = {}
    for share in args.shares:
        groups = take_prompts(data.train, share, seed=stage.seed)
        files[share] = _write(folder / f"train_{share:g}.jsonl", rows, groups), held_out
    return files


def _read(stage: RewardArgs, paths: Sequence[str], split: str) -> dict[str, Any]:
    """Rows by their source."""
    convert = partial(convert_if_export, args=stage)
    rows = read_rows(paths, stage="reward", split=split, convert=convert)
    return {source: row for row, source in rows}


def _write(path: Path, rows: dict[str, Any], groups: Sequence[EncodedGroup]) -> Path:
    lines = (json.dumps(rows[group.source], ensure_ascii=False, default=str) for group in groups)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_curve(args: DataSizeCurveArgs) -> list[str]:
    """Collect the accuracies of all runs into a JSON file and a page. Returns lines to print."""
    curve, intervals, lines = [], [], []
    for share in sorted(args.shares):
        report = json.loads((args.run_folder(share) / EVALUATION_FILE).read_text(encoding="utf-8"))
        point = {"share": share, **report["all"]}
        curve.append(point)
        label, accuracy = f"{100 * share:.3g}% of the prompts", "none"
        low, high = point["interval"] or (0.0, 1.0)
        if point["pairs"]:
            intervals.append(make_accuracy_row(label, point))
            accuracy = f"{point['accuracy']:.1%}"
        lines.append(f"  {label}: {accuracy} [{low:.1%}, {high:.1%}]")
    folder = Path(args.output_dir)
    (folder / CURVE_FILE).write_text(json.dumps(curve, indent=2) + "\n", encoding="utf-8")
    chart = render_accuracies(TITLE, intervals)
    title = "Would more comparisons help?"
    write_page(folder / PAGE_FILE, title, [chart])
    return [*lines, f"report: {folder / PAGE_FILE}"]
