"""Pieces that the HTML pages share. Whatever comes in is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from training.evaluation.charts import Point, line_chart

Rows = Sequence[Mapping[str, Any]]

# Which metrics share a picture, its title and how to read it; absent ones are left out.
Charts = tuple[tuple[tuple[str, ...], str, str], ...]
CHARTS: Charts = (
    (("loss/train", "loss/eval"), "Loss", "lower is better; eval is text kept apart"),
    (("accuracy/train", "accuracy/eval"), "Accuracy", "comparisons ordered as people did"),
    (("score/mean",), "Score", "the reward model's own opinion, which can be fooled"),
    (("kl/ref",), "divergence from the start", "KL in nats per response: how far it has moved"),
    (("policy/entropy",), "Entropy", "nats per token; near zero means it says one thing"),
    (("response/length",), "Response length", "tokens"),
    (("value/explained_variance",), "Explained variance", "how well the critic foresees scores"),
)


def tiles(cells: Iterable[tuple[str, str]]) -> str:
    """Numbers to see first, each with what it is."""
    cards = (
        f'<div class="card tile"><div class="big">{escape(big)}</div>'
        f'<div class="what">{escape(what)}</div></div>'
        for big, what in cells
    )
    return f'<div class="tiles">{"".join(cards)}</div>'


def broken(title: str, sentences: Iterable[str]) -> str:
    """A red box with reasons."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<div class="guards broken"><strong>{escape(title)}</strong><ul>{items}</ul></div>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    lines = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows[1:])
    return (
        '<div class="card scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """An interval is set smaller than the number that it belongs to."""
    number, bracket, interval = text.partition(" [")
    small = f" <small>{escape(bracket.strip() + interval)}</small>" if bracket else ""
    return f"<td>{escape(number)}{small}</td>"


def side_by_side(prompt: str, sides: Iterable[tuple[str, str, str]]) -> str:
    """A card with a prompt and responses to it: (CSS class, heading, text) of each."""
    columns = "".join(
        f'<div class="{kind}"><div class="side-name">{escape(heading)}</div>'
        f"{text_block(text)}</div>"
        for kind, heading, text in sides
    )
    return (
        f'<div class="card sample"><div class="prompt text">{escape(prompt)}</div>'
        f'<div class="sides">{columns}</div></div>'
    )


def text_block(text: str) -> str:
    """A model's or a person's words as they were written."""
    if not text.strip():
        return '<div class="empty">(nothing)</div>'
    return f'<div class="text">{escape(text.strip())}</div>'


def learning_curves(
    metrics: Mapping[str, Rows], *, charts: Charts = CHARTS, heading: str = "Learning curves"
) -> str:
    """The pictures that these metrics, by stage, have; "" without any."""
    figures = []
    for stage, rows in metrics.items():
        for keys, title, reading in charts:
            series = {key.split("/")[-1]: _series(rows, key) for key in keys}
            if chart := line_chart(series):
                name = f"{escape(stage)}: {title.lower()}" if stage else title
                caption = f"{name}<span>{reading}</span>"
                figures.append(
                    f'<figure class="card"><figcaption>{caption}</figcaption>{chart}</figure>'
                )
    if not figures:
        return ""
    return f'<h2>{heading}</h2><div class="charts">{"".join(figures)}</div>'


def _series(rows: Rows, key: str) -> list[Point]:
    return [
        (float(row["step"]), float(row[key]))
        for row in rows
        if row.get(key) is not None and row.get("step") is not None
    ]


def how_to_read(notes: Mapping[str, Sequence[str]]) -> str:
    """What a page shows and what it does not, side by side."""
    columns = []
    for key, heading in (("shows", "What this shows"), ("does_not_show", "What it does not show")):
        items = "".join(f"<li>{escape(note)}</li>" for note in notes.get(key, ()))
        columns.append(f'<div class="card"><h3>{heading}</h3><ul>{items}</ul></div>')
    return f'<h2>How to read this</h2><div class="notes">{"".join(columns)}</div>'
