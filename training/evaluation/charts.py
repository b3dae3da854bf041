"""Draw charts as inline SVG, coloured by the page's CSS. Nothing is loaded from elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10, sqrt
from typing import Any

Point = tuple[float, float]

WIDTH, HEIGHT = 330, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 26
MAX_POINTS = 400  # per line; more are not visible at this width

ROW_HEIGHT, LABEL_WIDTH, PLOT_WIDTH, VALUE_WIDTH = 30, 250, 360, 150


def draw_line_chart(series: Mapping[str, Sequence[Point]]) -> str:
    """Draw one line over steps per series, with a legend for several; "" if all are empty."""
    lines = {name: _thin(points) for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    y_ticks = choose_ticks(min(ys), max(ys), 4)
    frame = _Frame(min(xs), max(xs), min(*ys, *y_ticks), max(*ys, *y_ticks))
    parts = frame.draw_axes(choose_ticks(min(xs), max(xs), 4), y_ticks)
    for index, (name, points) in enumerate(lines.items()):
        faint = " faint" if index == 0 and len(lines) > 1 else ""
        path = " ".join(f"{frame.map_x(x)},{frame.map_y(y)}" for x, y in points)
        parts.append(f'<polyline class="line s{index % 4}{faint}" points="{path}"/>')
        x, y = points[-1]
        note = f"{name}: {format_number(y)} at step {format_number(x)}"
        parts.append(_draw_dot(f"s{index % 4}", frame.map_x(x), frame.map_y(y), 3, note))
    keys = "".join(
        f'<span class="key s{i % 4}">{escape(name)}</span>' for i, name in enumerate(lines)
    )
    legend = f'<p class="legend">{keys}</p>' if len(lines) > 1 else ""
    return _make_svg(WIDTH, HEIGHT, parts) + legend


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart."""

    label: str
    value: float
    low: float
    high: float
    mark: float | None = None  # another value, drawn as a diamond


def draw_interval_chart(
    rows: Sequence[Interval], *, low: float, high: float, reference: float
) -> str:
    """Draw a dot and its interval per row on one scale, with a dashed line at `reference`."""
    height = ROW_HEIGHT * len(rows) + 26

    def map_x(value: float) -> float:
        fraction = (min(max(value, low), high) - low) / (high - low)
        return round(LABEL_WIDTH + fraction * PLOT_WIDTH, 1)

    parts = []
    for tick in [*choose_ticks(low, high, 5), reference]:
        if low <= tick <= high:
            kind, x = "reference" if tick == reference else "grid", map_x(tick)
            parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="4" y2="{height - 22}"/>')
            parts.append(_draw_text(x, height - 6, format_number(tick), "middle"))
    for index, row in enumerate(rows):
        y, start, end = ROW_HEIGHT * index + 18, map_x(row.low), map_x(row.high)
        parts.append(_draw_text(LABEL_WIDTH - 14, y + 4, row.label, "end", "label"))
        parts.append(f'<line class="bar" x1="{start}" x2="{end}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot s0" cx="{map_x(row.value)}" cy="{y}" r="5"/>')
        if row.mark is not None:
            diamond = f"M{map_x(row.mark)} {y - 6}l6 6l-6 6l-6 -6z"
            parts.append(f'<path class="mark" d="{diamond}"><title>{row.mark:.3f}</title></path>')
        value = f"{row.value:.3f}  [{row.low:.3f}, {row.high:.3f}]"
        parts.append(_draw_text(LABEL_WIDTH + PLOT_WIDTH + 14, y + 4, value, "start", "value"))
    return _make_svg(LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH, height, parts)


def draw_reliability_chart(bins: Sequence[Mapping[str, Any]]) -> str:
    """Draw agreement over confidence, a dot per bin, with the dashed line where they are equal.

    A bin has `confidence`, from 1/2 to 1, `agreement` and `pairs`, which the dot's area shows.
    """
    low = min(0.5, *(0.1 * floor(10 * part["agreement"]) for part in bins))
    frame = _Frame(x_low=0.5, x_high=1.0, y_low=low, y_high=1.0)
    parts = frame.draw_axes(choose_ticks(0.5, 1, 5), choose_ticks(low, 1.0, 5))
    (x1, y1), (x2, y2) = ((frame.map_x(end), frame.map_y(end)) for end in (0.5, 1.0))
    parts.append(f'<line class="reference" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    most = max(part["pairs"] for part in bins)
    for part in bins:
        count, x, y = (part[key] for key in ("pairs", "confidence", "agreement"))
        radius = round(max(7.0 * sqrt(count / most), 1.5), 1)
        note = f"{count}: confidence {x:.3f}, agreement {y:.3f}"
        parts.append(_draw_dot("s0", frame.map_x(x), frame.map_y(y), radius, note))
    return _make_svg(WIDTH, HEIGHT, parts)


def choose_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers that cover low..high."""
    if high <= low:
        pad = abs(low) * 0.5 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def format_number(value: float) -> str:
    """Format a number in few characters, for an axis."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}"
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Frame:
    """Maps data to coordinates of a chart of WIDTH x HEIGHT."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def map_x(self, value: float) -> float:
        fraction = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return round(LEFT + fraction * (WIDTH - LEFT - RIGHT), 1)

    def map_y(self, value: float) -> float:
        fraction = (value - self.y_low) / ((self.y_high - self.y_low) or 1.0)
        return round(HEIGHT - BOTTOM - fraction * (HEIGHT - TOP - BOTTOM), 1)

    def draw_axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
        """Draw the labels of both axes, and a grid line at each tick of y."""
        parts = []
        for tick in y_ticks:
            y = self.map_y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
            parts.append(_draw_text(LEFT - 6, y + 4, format_number(tick), "end"))
        for tick in x_ticks:
            if self.x_low <= tick <= self.x_high:
                parts.append(_draw_text(self.map_x(tick), HEIGHT - 8, format_number(tick)))
        return parts


def _thin(points: Sequence[Point]) -> list[Point]:
    """Keep the finite points, thinned evenly to MAX_POINTS, and the last one."""
    finite = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    stride = -(-len(finite) // MAX_POINTS) or 1
    thinned = finite[::stride]
    return thinned if not finite or thinned[-1] == finite[-1] else [*thinned, finite[-1]]


def _make_svg(width: int, height: int, parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def _draw_dot(color: str, x: float, y: float, radius: float, note: str) -> str:
    title = f"<title>{escape(note)}</title>"
    return f'<circle class="dot {color}" cx="{x}" cy="{y}" r="{radius}">{title}</circle>'


def _draw_text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
