"""Exports as Label Studio writes them, in the shapes that its server and page produce."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.arguments.annotation import VoteArgs
from training.data.annotation.convert import convert_tasks
from training.data.annotation.export import read_export
from training.data.records import parse_group

Json = dict[str, Any]
ARGS = VoteArgs()
LEFT, RIGHT = ("the left", "the right", 1.0), ("the right", "the left", 1.0)


def region(kind: str, name: str, value: Json, **more: Any) -> Json:
    return {"id": "r1", "from_name": name, "to_name": name, "type": kind, "value": value, **more}


def chosen(side: str, **more: Any) -> list[Json]:
    return [region("pairwise", "comparison", {"selected": side}, **more)]


def ranked(*ids: str) -> list[Json]:
    return [region("ranker", "rank", {"ranker": {"rank": list(ids)}})]


def rated(rating: Any) -> list[Json]:
    return [region("rating", "helpfulness", {"rating": rating})]


def annotation(number: int, by: Any, result: Any, **more: Any) -> Json:
    stamp = f"2026-01-01T00:00:{number:02d}.000000Z"
    return {
        "id": number,
        "completed_by": by,
        "result": result,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": stamp,
        "updated_at": stamp,
        "lead_time": 5.0,
        "parent_prediction": None,
        **more,
    }


def task(number: int, *annotations: Json, data: Json | None = None, **more: Any) -> Json:
    pair = {"prompt": f"question {number}", "answer1": "the left", "answer2": "the right"}
    return {"id": number, "data": data or pair, "annotations": list(annotations), **more}


def items(*texts: str) -> Json:
    return {
        "prompt": "rank these",
        "items": [
            {"id": f"a{n}", "title": f"Answer {n}", "body": text}
            for n, text in enumerate(texts, start=1)
        ],
    }


def write(folder: Path, tasks: Any) -> str:
    file = folder / "export.json"
    file.write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
    return str(file)


def write_flat(folder: Path, tasks: list[Json], form: str) -> str:
    """Write tasks as JSON_MIN or CSV: a row per annotation, without skipped ones, newest first."""
    rows = []
    for one in tasks:
        kept = [a for a in one["annotations"] if not a["was_cancelled"]]
        for item in reversed(kept):
            controls: dict[str, list[Json]] = {}
            for part in item["result"]:
                controls.setdefault(part["from_name"], []).append(part["value"])
            rows.append(
                {
                    **one["data"],
                    "id": one["id"],
                    **controls,
                    "annotator": item["completed_by"],
                    "annotation_id": item["id"],
                    "updated_at": item["updated_at"],
                    "lead_time": item["lead_time"],
                }
            )
        if not one["annotations"]:
            rows.append({**one["data"], "id": one["id"], "annotator": None, "annotation_id": None})
    if form == "json":
        return write(folder, rows)
    columns = sorted({key for row in rows for key in row})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, quoting=csv.QUOTE_NONNUMERIC, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    file = folder / "export.csv"
    file.write_text(text.getvalue(), encoding="utf-8")
    return str(file)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def three_votes(*sides: str) -> list[Any]:
    votes = [annotation(n, n, chosen(side)) for n, side in enumerate(sides, start=1)]
    return [task(1, *votes)]


def convert_file(path: str, **changes: Any) -> Any:
    rows, report = convert_tasks(read_export(path), path, replace(ARGS, **changes))
    assert report["used"] + sum(report["dropped"].values()) == report["annotations"]
    for row, source in rows:
        parse_group(row, source)  # stage 2 takes it
    return rows, report


def list_pairs(rows: Any) -> list[tuple[str, str, float]]:
    """List (better, worse, label) of all comparisons, as texts."""
    return [
        (row["responses"][pair["chosen"]], row["responses"][pair["rejected"]], pair["label"])
        for row, _ in rows
        for pair in row["pairs"]
    ]
