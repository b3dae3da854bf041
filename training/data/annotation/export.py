"""A Label Studio export as tasks and annotations, in any of its formats.

JSON has one row per task; JSON_MIN and CSV have one row per annotation, without the skipped ones.
Only `data` and `annotations` are relied on: servers differ in everything else they write.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.arguments.parsing import UserError
from training.data.files import Row, read_file

# Columns that JSON_MIN and CSV add to a task's data.
ROW_KEYS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}
UNLABELLED = (
    "{}: these are tasks without annotations: import them into Label Studio, and give what it "
    "exports once people have labelled them"
)
VALUE_TYPES = {"selected": "pairwise", "ranker": "ranker", "rating": "rating"}


@dataclass(frozen=True)
class Region:
    """The value of one control of the labelling page."""

    control: str  # its name in the labelling config
    kind: str  # "pairwise", "ranker", "rating" or another kind of the page
    value: Mapping[str, Any]


@dataclass(frozen=True)
class Annotation:
    """One person's submission for one task; `broken` is the reason if it cannot be read."""

    annotation_id: str
    annotator: str
    regions: tuple[Region, ...] = ()
    is_skipped: bool = False
    is_ground_truth: bool = False
    is_from_prediction: bool = False
    lead_time: float | None = None
    updated_at: str = ""
    broken: str = ""


@dataclass
class Task:
    """A task's data and what was submitted for it."""

    task_id: str
    data: Mapping[str, Any]
    source: str  # "path:task ID"
    annotations: list[Annotation] = field(default_factory=list)
    drafts: int = 0
    predictions: int = 0


def is_export(row: Mapping[str, Any]) -> bool:
    """True for a row of an export."""
    if isinstance(row.get("annotations"), list) and isinstance(row.get("data"), Mapping):
        return True
    is_comparison = any(key in row for key in ("chosen", "rejected", "pairs"))
    return "annotation_id" in row and "annotator" in row and not is_comparison


def is_unlabelled(row: Mapping[str, Any]) -> bool:
    """True for a task as it is imported, which nobody has seen yet."""
    return isinstance(row.get("data"), Mapping) and "annotations" not in row


def is_export_start(first: Row, path: str) -> bool:
    """True if a file's first row is one of an export; refuses tasks that nobody has labelled."""
    if is_unlabelled(first[0]):
        raise UserError(UNLABELLED.format(path))
    return is_export(first[0])


def read_export(path: str) -> list[Task]:
    """Read the tasks of an export file, in its order."""
    rows = read_file(path, stage="reward")
    if not is_export_start(rows[0], path):
        raise UserError(
            f"{path}: is no Label Studio export (neither 'data' and 'annotations' nor 'annotator' "
            f"and 'annotation_id'), got keys {sorted(map(str, rows[0][0]))}"
        )
    return parse_tasks(rows, path)


def parse_tasks(rows: Sequence[Row], path: str) -> list[Task]:
    """Parse the tasks of an export; in JSON_MIN and CSV an empty row is a task without any."""
    if "annotations" in rows[0][0]:
        return [_parse_task(row, source, path) for row, source in rows]
    tasks: dict[str, Task] = {}
    for row, source in rows:
        task_id = str(row.get("id") or source.rsplit(":", 1)[-1])
        controls: dict[str, list[Region]] = {}
        data = {}
        for key, value in row.items():
            regions = _parse_regions(key, value)
            if regions:
                controls[key] = regions
            elif key not in ROW_KEYS:
                data[key] = value
        task = tasks.setdefault(task_id, Task(task_id, data, f"{path}:task {task_id}"))
        if row.get("annotation_id") in (None, ""):
            continue
        task.annotations.append(
            Annotation(
                annotation_id=str(row["annotation_id"]),
                annotator=_read_person(row.get("annotator")),
                regions=tuple(region for regions in controls.values() for region in regions),
                lead_time=_read_number(row.get("lead_time")),
                updated_at=_read_text(row.get("updated_at")),
            )
        )
    return list(tasks.values())


def _parse_task(row: Mapping[str, Any], source: str, path: str) -> Task:
    data, annotations = row.get("data"), row.get("annotations")
    if not isinstance(data, Mapping) or not isinstance(annotations, list):
        raise UserError(f"{source}: a task needs 'data' and 'annotations', as in the other rows")
    task_id = str(row.get("id", source.rsplit(":", 1)[-1]))
    drafts = _read_list(row.get("drafts"))
    return Task(
        task_id=task_id,
        data=data,
        source=f"{path}:task {task_id}",
        annotations=[_parse_annotation(item, place) for place, item in enumerate(annotations)],
        drafts=sum(isinstance(d, Mapping) and d.get("annotation") is None for d in drafts),
        predictions=len(_read_list(row.get("predictions"))),
    )


def _parse_annotation(item: Any, place: int) -> Annotation:
    if not isinstance(item, Mapping):
        return Annotation(f"number {place + 1}", "", broken="no JSON object")
    result = item.get("result")
    regions = tuple(
        Region(
            control=_read_text(part.get("from_name")),
            kind=_read_text(part.get("type")),
            value=value if isinstance(value := part.get("value"), Mapping) else {},
        )
        for part in _read_list(result)
        if isinstance(part, Mapping)
    )
    is_list = isinstance(result, list) and len(regions) == len(result)
    return Annotation(
        annotation_id=str(item.get("id", f"number {place + 1}")),
        annotator=_read_person(item.get("completed_by")),
        regions=regions,
        is_skipped=item.get("was_cancelled") is True,
        is_ground_truth=item.get("ground_truth") is True,
        is_from_prediction=bool(item.get("parent_prediction")),
        lead_time=_read_number(item.get("lead_time")),
        updated_at=_read_text(item.get("updated_at")) or _read_text(item.get("created_at")),
        broken="" if is_list else "'result' is no list of objects",
    )


def _parse_regions(name: str, value: Any) -> list[Region]:
    """Parse a column's regions, [{"selected": "left"}] or its JSON text; none if it is data."""
    if isinstance(value, str) and value.startswith("[{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        return []
    if any("id" in item for item in value):
        return []  # answers of a task, which may have ratings too
    kinds = [next((VALUE_TYPES[key] for key in item if key in VALUE_TYPES), "") for item in value]
    if not all(kinds):
        return []
    return [Region(name, kind, item) for kind, item in zip(kinds, value, strict=True)]


def _read_person(value: Any) -> str:
    """Read an annotator's id, from a number, its text, or an object with an id."""
    if isinstance(value, Mapping):
        value = value.get("id", value.get("email"))
    return "" if value is None or isinstance(value, list | dict) else str(value)


def _read_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < float("inf") else None


def _read_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _read_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
