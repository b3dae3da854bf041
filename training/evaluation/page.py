"""One HTML page with its styles inside, and the pieces it is built of. All texts are escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from training.evaluation.charts import Point, draw_line_chart

Rows = Sequence[Mapping[str, Any]]

# Metrics drawn in one chart, its title and how to read it; metrics that are missing are skipped.
Charts = tuple[tuple[tuple[str, ...], str, str], ...]
CHARTS: Charts = (
    (("loss/train", "loss/eval"), "Loss", "lower is better; eval is held-out text"),
    (("accuracy/train", "accuracy/eval"), "Accuracy", "share of comparisons ordered as people did"),
    (("score/mean",), "Score", "from the reward model, which can be fooled"),
    (("kl/ref",), "KL to the SFT model", "nats per response: how far the policy has moved"),
    (("policy/entropy",), "Entropy", "nats per token; near 0 every response is the same"),
    (("response/length",), "Response length", "tokens"),
    (("value/explained_variance",), "Explained variance", "1: the critic predicts every score"),
)

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root {
  color-scheme: light;
  --ink: #1d2433; --soft: #5b6478; --rule: #e3e7ee; --paper: #ffffff; --ground: #f5f6f9;
  --blue: #2f5fd0; --orange: #d9730d; --green: #1f8a5b;
  --good: #e8f5ee; --bad: #fdecea; --bad-ink: #a1261b;
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 1060px; margin: 0 auto; padding: 36px 24px 60px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 40px 0 12px; }
h3 { font-size: 14px; margin: 20px 0 8px; color: var(--soft); font-weight: 600; }
p { margin: 0 0 10px; }
.lead { font-size: 17px; color: var(--soft); max-width: 780px; }
.card {
  background: var(--paper); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 18px;
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 22px 0 14px; }
.tile .big { font-size: 26px; font-weight: 650; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.tile .what { color: var(--soft); font-size: 13px; }
.verdict { border-left: 4px solid var(--green); background: var(--good); border-radius: 8px;
  padding: 12px 16px; }
.verdict.bad { border-color: var(--bad-ink); background: var(--bad); }
.verdict.bad strong { color: var(--bad-ink); }
.verdict ul, .notes ul { margin: 6px 0 0; padding-left: 20px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { font-weight: 600; color: var(--soft); font-size: 13px; }
tbody tr:last-child td { border-bottom: 0; }
td small { color: var(--soft); font-size: 12px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 12px; }
figure { margin: 0; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 6px; }
figcaption span { font-weight: 400; color: var(--soft); font-size: 12.5px; display: block; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg text.label { font-size: 13px; fill: var(--ink); }
svg text.value { font-size: 12.5px; fill: var(--ink); white-space: pre; }
.grid { stroke: var(--rule); stroke-width: 1; }
.reference { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 4 4; }
.bar { stroke: #a9bdf0; stroke-width: 8; stroke-linecap: round; }
.mark { fill: var(--paper); stroke: var(--orange); stroke-width: 2; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.s0 { color: #2f5fd0; } .s1 { color: #d9730d; } .s2 { color: #1f8a5b; } .s3 { color: #8250c4; }
.line { stroke: currentColor; } .line.faint { opacity: 0.45; } .line.s1 { stroke-width: 2.2; }
.dot { fill: currentColor; }
.legend { margin: 4px 0 0; font-size: 12.5px; }
.key { margin-right: 14px; } .key::before { content: ""; display: inline-block; width: 14px;
  height: 3px; border-radius: 2px; margin: 0 6px 3px 0; background: currentColor; }
.sample { margin-bottom: 12px; padding: 0; overflow: hidden; }
.sample .prompt { padding: 9px 16px; background: #fafbfd; border-bottom: 1px solid var(--rule);
  color: var(--soft); font-size: 13.5px; }
.sides { display: grid; grid-template-columns: 1fr 1fr; }
.sides > div { padding: 11px 16px 13px; min-width: 0; }
.sides > div + div { border-left: 1px solid var(--rule); }
.side-name { font-size: 12px; font-weight: 600; color: var(--soft); margin-bottom: 2px; }
.after .side-name { color: var(--blue); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.empty { color: var(--soft); font-style: italic; }
.notes { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; }
.notes h3 { margin-top: 0; color: var(--ink); }
.notes li, .verdict li { margin-bottom: 4px; }
.terms { color: var(--soft); font-size: 13px; margin-top: 8px; }
.terms ul { margin: 0; padding-left: 20px; }
footer { margin-top: 36px; color: var(--soft); font-size: 13px; }
@media (max-width: 640px) {
  .sides, .notes { grid-template-columns: 1fr; }
  .sides > div + div { border-left: 0; border-top: 1px solid var(--rule); }
}
@media print { body { background: #fff; } .card { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
"""
)


def write_page(path: str | Path, title: str, sections: Iterable[str]) -> None:
    """Write sections of HTML, empty ones skipped, as one page; the title is plain text."""
    body = "\n".join(section for section in sections if section)
    page = PAGE.substitute(title=escape(title), body=body)
    Path(path).write_text(page, encoding="utf-8")


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
    metrics: Mapping[str, Rows], *, charts: Charts = CHARTS, heading: str = "Learning curves"
) -> str:
    """Render the charts whose metrics these rows have, by stage; "" without any."""
    figures = []
    for stage, rows in metrics.items():
        for keys, title, reading in charts:
            series = {key.split("/")[-1]: _collect_points(rows, key) for key in keys}
            if chart := draw_line_chart(series):
                name = f"{escape(stage)}: {title}" if stage else title
                caption = f"{name}<span>{reading}</span>"
                figures.append(
                    f'<figure class="card"><figcaption>{caption}</figcaption>{chart}</figure>'
                )
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
