"""Push tasks to a Label Studio project, and pull its export."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from training.arguments.annotation import PullArgs
from training.arguments.parsing import UserError
from training.data.annotation.config import LabelConfig, parse_config, read_page
from training.data.annotation.export import is_export, is_unlabelled, parse_tasks
from training.data.annotation.server import Project, Server
from training.data.files import parse_rows, read_file, write_text

BATCH = 200  # tasks per request: seconds, and little is lost when one fails


def push(
    server: Server,
    tasks_path: str,
    page_path: str,
    *,
    name: str,
    annotations_per_task: int,
    control: str = "",
) -> str:
    """Add a file's tasks to the project `name`, a title or number; create a title that is missing.

    A task whose data the project has is not added again, so a push can be repeated. Returns a line
    that describes what was added.
    """
    page = read_page(page_path)
    tasks = read_tasks(tasks_path, parse_config(page, page_path, control=control))
    project = check_project(server, name, page, page_path)
    is_new = project is None
    if project is None:
        project = server.create(name, page, annotations_per_task=annotations_per_task)
    new = tasks if is_new else _select_new(tasks, server.list_task_data(project))
    for start in range(0, len(new), BATCH):
        server.add(project, new[start : start + BATCH])
    known = f", {len(tasks) - len(new)} were there already" if len(new) < len(tasks) else ""
    made = " is new" if is_new else ""
    return f"{project}{made}: {len(new)} tasks added{known}: {server.url}/projects/{project.number}"


def check_project(server: Server, name: str, page: str, page_path: str) -> Project | None:
    """Return the project `name` if there is one; it must ask what this page asks."""
    project = server.find(name)
    if project is not None and _parse_page(project.page) != _parse_page(page):
        raise UserError(
            f"--project {name}: {project} has another labelling config than {page_path}; name "
            "another project, or put that file's text under its Settings, Labeling Interface"
        )
    return project


def _parse_page(page: str) -> LabelConfig | None:
    """Parse the data that a page shows and what it asks; its looks do not matter."""
    try:
        return parse_config(page, "")
    except UserError:
        return None


def read_tasks(path: str, config: LabelConfig) -> list[dict[str, Any]]:
    """Read tasks to import; each must have the data that the page shows."""
    shown = [config.prompt, *(config.answers or ()), config.items, config.response]
    tasks = []
    for row, source in read_file(path, stage="reward"):
        if not is_unlabelled(row):
            what = "an export" if is_export(row) else f"no task (keys {sorted(map(str, row))})"
            raise UserError(f"{source}: is {what}; push the tasks that collect.sh wrote")
        missing = [key for key in shown if key and key not in row["data"]]
        if missing:
            raise UserError(f"{source}: the task's data lack {missing}, which its page shows")
        tasks.append(row)
    return tasks


def _select_new(tasks: Sequence[dict[str, Any]], known: Sequence[Any]) -> list[dict[str, Any]]:
    """Select the tasks that are not known; a task that is given twice must be known twice."""
    left = Counter(json.dumps(data, sort_keys=True) for data in known)
    new = []
    for task in tasks:
        key = json.dumps(task["data"], sort_keys=True)
        if not left[key]:
            new.append(task)
        left[key] = max(left[key] - 1, 0)
    return new


def pull(server: Server, args: PullArgs) -> Iterator[str]:
    """Write the project's export; yields lines that describe it."""
    project = server.get(args.project)
    if not project.tasks:
        raise UserError(f"--project {args.project}: {project} has no tasks")
    text = server.export(project, args.format)
    rows = parse_rows(args.output, text, stage="reward")
    if not rows or not is_export(rows[0][0]):
        raise UserError(
            f"the server sent no export that could be written to {args.output}; pull again"
        )
    tasks = parse_tasks(rows, args.output)
    write_text(args.output, text, "--output")
    annotations = sum(len(task.annotations) for task in tasks)
    yield f"{project}: {len(tasks)} tasks, {annotations} annotations written to {args.output}"
    if not annotations:
        yield "nobody has labelled a task yet: pull again when people are done"
