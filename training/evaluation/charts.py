"""Charts as inline SVG text: small, sharp at any size, and nothing to load. Colours are CSS's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10, sqrt

Point = tuple[float, float]

WIDTH, HEIGHT = 330, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 26
MAX_POINTS = 400  # of a line; more are not seen at this width

ROW_HEIGHT, LABEL_WIDTH, PLOT_WIDTH, VALUE_WIDTH = 30, 250, 360, 150


def line_chart(series: Mapping[str, Sequence[Point]]) -> str:
    """Lines over steps, one per series, with its name where there are several; "" if all empty."""
    lines = {name: _usable(points) for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 4), ticks(min(ys), max(ys), 4)
    frame = _Frame(
        x_low=min(xs), x_high=max(xs), y_low=min(*ys, *y_ticks), y_high=max(*ys, *y_ticks)
    )
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for tick in y_ticks:
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(LEFT - 6, y + 4, number(tick), "end"))
    for tick in x_ticks:
        if frame.x_low <= tick <= frame.x_high:
            parts.append(_text(frame.x(tick), HEIGHT - 8, number(tick), "middle"))
    for index, (name, points) in enumerate(lines.items()):
        faint = " faint" if index == 0 and len(lines) > 1 else ""
        path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)
        parts.append(f'<polyline class="line s{index % 4}{faint}" points="{path}"/>')
        last_x, last_y = points[-1]
        parts.append(
            f'<circle class="dot s{index % 4}" cx="{frame.x(last_x)}" cy="{frame.y(last_y)}" r="3">'
            f"<title>{escape(name)}: {number(last_y)} at step {number(last_x)}</title></circle>"
        )
    return "".join([*parts, "</svg>", _legend(list(lines)) if len(lines) > 1 else ""])


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart."""

    label: str
    value: float
    low: float
    high: float
    mark: float | None = None  # something to compare the value with


def interval_chart(rows: Sequence[Interval], *, low: float, high: float, reference: float) -> str:
    """A dot and its interval per row on a common scale, with a dashed line at `reference`."""
    height = ROW_HEIGHT * len(rows) + 26
    width = LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH

    def x(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(LABEL_WIDTH + share * PLOT_WIDTH, 1)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for tick in [*ticks(low, high, 5), reference]:
        if low <= tick <= high:
            kind, at = "reference" if tick == reference else "grid", x(tick)
            parts.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="4" y2="{height - 22}"/>')
            parts.append(_text(at, height - 6, number(tick), "middle"))
    for index, row in enumerate(rows):
        y = ROW_HEIGHT * index + 18
        parts.append(_text(LABEL_WIDTH - 14, y + 4, row.label, "end", "label"))
        parts.append(f'<line class="bar" x1="{x(row.low)}" x2="{x(row.high)}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot s0" cx="{x(row.value)}" cy="{y}" r="5"/>')
        if row.mark is not None:
            at = x(row.mark)
            diamond = f"M{at} {y - 6}l6 6l-6 6l-6 -6z"
            parts.append(f'<path class="mark" d="{diamond}"><title>{row.mark:.3f}</title></path>')
        value = f"{row.value:.3f}  [{row.low:.3f}, {row.high:.3f}]"
        parts.append(_text(LABEL_WIDTH + PLOT_WIDTH + 14, y + 4, value, "start", "value"))
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class Dot:
    """A point of a reliability chart and how much stands behind it."""

    x: float
    y: float
    count: int


def reliability_chart(dots: Sequence[Dot]) -> str:
    """Dots with areas by their counts, x and y from 1/2 or below to 1; the dashed line is x = y."""
    low = min(0.5, *(0.1 * floor(10 * dot.y) for dot in dots))
    frame = _Frame(x_low=0.5, x_high=1.0, y_low=low, y_high=1.0)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for tick in ticks(low, 1.0, 5):
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(LEFT - 6, y + 4, number(tick), "end"))
    parts += [_text(frame.x(tick), HEIGHT - 8, number(tick), "middle") for tick in ticks(0.5, 1, 5)]
    ends = f'x1="{frame.x(0.5)}" y1="{frame.y(0.5)}" x2="{frame.x(1.0)}" y2="{frame.y(1.0)}"'
    parts.append(f'<line class="reference" {ends}/>')
    most = max(dot.count for dot in dots)
    for dot in dots:
        radius = round(max(7.0 * sqrt(dot.count / most), 1.5), 1)
        parts.append(
            f'<circle class="dot s0" cx="{frame.x(dot.x)}" cy="{frame.y(dot.y)}" r="{radius}">'
            f"<title>{dot.count}: {dot.x:.3f} sure, {dot.y:.3f} agree</title></circle>"
        )
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that cover low..high."""
    if high <= low:
        pad = abs(low) * 0.5 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number(value: float) -> str:
    """A short form of a number for an axis."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}"
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Frame:
    """From data to the picture's coordinates."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1.0)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _usable(points: Sequence[Point]) -> list[Point]:
    """Finite points, thinned evenly, the last one kept."""
    finite = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    stride = -(-len(finite) // MAX_POINTS) or 1
    thinned = finite[::stride]
    return thinned if not finite or thinned[-1] == finite[-1] else [*thinned, finite[-1]]


def _legend(names: Sequence[str]) -> str:
    keys = (f'<span class="key s{i % 4}">{escape(name)}</span>' for i, name in enumerate(names))
    return f'<p class="legend">{"".join(keys)}</p>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
