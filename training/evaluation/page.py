"""Render HTML pages: page.html is the frame, page_texts.json the words. All texts are escaped."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from training.evaluation.charts import Point, draw_line_chart

FRAME = Path(__file__).with_name("page.html")
TEXTS: Any = json.loads(Path(__file__).with_name("page_texts.json").read_text(encoding="utf-8"))

Rows = Sequence[Mapping[str, Any]]


def write_page(path: str | Path, title: str, sections: Iterable[str]) -> None:
    """Write sections of HTML, empty ones skipped, as one page; the title is plain text."""
    frame = Template(FRAME.read_text(encoding="utf-8"))
    body = "\n".join(section for section in sections if section)
    Path(path).write_text(frame.substitute(title=escape(title), body=body), encoding="utf-8")


def render_tiles(cells: Iterable[tuple[str, str]]) -> str:
    """Render the numbers to see first: (number, what it is)."""
    cards = (
        f'<div class="card tile"><div class="big">{escape(big)}</div>'
        f'<div class="what">{escape(what)}</div></div>'
        for big, what in cells
    )
    return f'<div class="tiles">{"".join(cards)}</div>'


def render_all_clear(title: str, text: str) -> str:
    """Render a green box: nothing to warn of."""
    return f'<div class="verdict"><strong>{escape(title)}</strong> {escape(text)}</div>'


def render_warnings(title: str, sentences: Iterable[str]) -> str:
    """Render a red box with a list of reasons."""
    title = f"<strong>{escape(title)}</strong>"
    return f'<div class="verdict bad">{title}{render_list(sentences)}</div>'


def render_list(sentences: Iterable[str]) -> str:
    """Render a bulleted list."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>"


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Render a table whose first row is its header."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    lines = "".join(f"<tr>{''.join(_render_cell(cell) for cell in row)}</tr>" for row in rows[1:])
    return (
        '<div class="card scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _render_cell(text: str) -> str:
    """Render a number, with its interval in smaller type."""
    number, bracket, interval = text.partition(" [")
    small = f" <small>{escape(bracket.strip() + interval)}</small>" if bracket else ""
    return f"<td>{escape(number)}{small}</td>"


def render_side_by_side(prompt: str, sides: Iterable[tuple[str, str, str]]) -> str:
    """Render a prompt and its responses in columns: (CSS class, heading, text) of each."""
    columns = "".join(
        f'<div class="{kind}"><div class="side-name">{escape(heading)}</div>'
        f"{_render_text(text)}</div>"
        for kind, heading, text in sides
    )
    return (
        f'<div class="card sample"><div class="prompt text">{escape(prompt)}</div>'
        f'<div class="sides">{columns}</div></div>'
    )


def _render_text(text: str) -> str:
    if not text.strip():
        return '<div class="empty">(nothing)</div>'
    return f'<div class="text">{escape(text.strip())}</div>'


def render_learning_curves(
    metrics: Mapping[str, Rows],
    *,
    charts: Rows = TEXTS["charts"],
    heading: str = "Learning curves",
) -> str:
    """Render the charts whose metrics these rows have, by stage; "" without any.

    Each of `charts` has the metrics drawn in it, its title and how to read it.
    """
    figures = []
    for stage, rows in metrics.items():
        for chart in charts:
            series = {key.split("/")[-1]: _collect_points(rows, key) for key in chart["metrics"]}
            if drawing := draw_line_chart(series):
                name = f"{escape(stage)}: {chart['title']}" if stage else chart["title"]
                caption = f"<figcaption>{name}<span>{chart['reading']}</span></figcaption>"
                figures.append(f'<figure class="card">{caption}{drawing}</figure>')
    if not figures:
        return ""
    return f'<h2>{heading}</h2><div class="charts">{"".join(figures)}</div>'


def _collect_points(rows: Rows, key: str) -> list[Point]:
    return [
        (float(row["step"]), float(row[key]))
        for row in rows
        if row.get(key) is not None and row.get("step") is not None
    ]


def render_notes(notes: Mapping[str, Sequence[str]]) -> str:
    """Render sentences under "shows" and under "does_not_show", side by side."""
    columns = []
    for key, heading in (("shows", "What this shows"), ("does_not_show", "What it does not show")):
        items = render_list(notes.get(key, ()))
        columns.append(f'<div class="card"><h3>{heading}</h3>{items}</div>')
    return f'<h2>How to read this</h2><div class="notes">{"".join(columns)}</div>'
