"""Write the files of an evaluation: summary.json, one JSONL file per side, report.html."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.arguments.evaluate import EvaluateArgs
from training.arguments.parsing import UserError
from training.evaluation.report import read_metrics, write_report
from training.evaluation.summary import Summary

SUMMARY, REPORT = "summary.json", "report.html"


def prepare_output(args: EvaluateArgs) -> Path:
    """Make the folder, write args.json, delete an earlier summary; refuse a model's folder."""
    folder = Path(args.output_dir)
    if (folder / "config.json").exists():
        raise UserError(f"--output_dir: {folder} holds a model; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (SUMMARY, REPORT):
            (folder / name).unlink(missing_ok=True)
        _write_json(folder / "args.json", asdict(args))
    except OSError as error:
        raise UserError(f"--output_dir: {folder} cannot be written: {error.strerror}") from error
    return folder


def write_results(
    args: EvaluateArgs,
    summary: Summary,
    prompts: Sequence[str],
    sides: Mapping[str, Sequence[str]],
    notes: Mapping[str, Sequence[str]] | None,
) -> None:
    """Write all files; `sides` maps before, after, best_of_4, ... to one response per prompt."""
    folder, labels = Path(args.output_dir), choose_labels(args)
    for side, responses in sides.items():
        with (folder / f"{side}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for prompt, response in zip(prompts, responses, strict=True):
                row = {"prompt": prompt, "response": response}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    stages = (
        (labels[0], args.before),
        ("Reward model", args.reward_model_name_or_path),
        (labels[1], args.after),
    )
    write_report(
        summary,
        summary["samples"],
        {name: read_metrics(Path(path) / "metrics.jsonl") for name, path in stages if path},
        folder / REPORT,
        title=args.title,
        labels=labels,
        kl_target=args.kl_target or None,
        notes=notes,
        groups_are=f"groups by {args.group_by}" if args.group_by else "different ones",
    )
    _write_json(folder / SUMMARY, summary)


def choose_labels(args: EvaluateArgs) -> tuple[str, str]:
    """Name the two columns: --labels, or the models' folders."""
    if args.labels:
        return args.labels[0], args.labels[1]
    before, after = Path(args.before).name, Path(args.after).name
    return (before, after) if before != after else ("before", "after")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
