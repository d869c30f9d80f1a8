"""Line charts as SVG in the colours of the page around them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from infill.pipeline.reporting.page import render

WIDTH, HEIGHT = 420, 270
"""Size of a chart in SVG units; narrow enough that its text stays legible on a phone."""
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 42
MARKERS = ("circle", "square", "triangle", "diamond", "bar", "cross")
"""Marker shape of each series beside its colour: for print, and for colour-blind readers."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One named line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """Lower end of each point's interval; shown as a band together with ``high``."""
    high: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Maps a range of values to a range of SVG units."""

    first: float
    last: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.first) / (self.last - self.first)
        return round(self.start + share * (self.end - self.start), 2)


def curve(series: Sequence[Series], x_label: str, y_label: str, title: str = "") -> Markup:
    """Return a line chart with intervals, axes and legend.

    Points that are not finite are left out, so a line may begin late or have a gap.

    Args:
        series: in the order of the legend; the first takes the page's strongest colour.
        x_label: label of the x axis, with its unit.
        y_label: label of the y axis, with its unit.
        title: title of the chart.

    Returns:
        A ``<figure>``; a sentence instead if there are no points.
    """
    points = [_finite(line) for line in series]
    plotted = [point for line in points for point in line]
    if not plotted:
        return Markup("<p>{}: there are no values yet.</p>").format(title or y_label)
    x_ticks = ticks(min(p[0] for p in plotted), max(p[0] for p in plotted))
    y_ticks = ticks(min(p[2] for p in plotted), max(p[3] for p in plotted))
    across = _Scale(first=x_ticks[0], last=x_ticks[-1], start=LEFT, end=WIDTH - RIGHT)
    upwards = _Scale(first=y_ticks[0], last=y_ticks[-1], start=HEIGHT - BOTTOM, end=TOP)
    return render(
        "curve.svg.j2",
        title=title,
        x_label=x_label,
        y_label=y_label,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        x_ticks=[(across(value), _number(value, x_ticks)) for value in x_ticks],
        y_ticks=[(upwards(value), _number(value, y_ticks)) for value in y_ticks],
        lines=[
            _line(line.name, index, reached, across, upwards)
            for index, (line, reached) in enumerate(zip(series, points, strict=True))
        ],
    )


def ticks(lowest: float, highest: float, most: int = 7) -> list[float]:
    """Return round numbers, evenly spaced, that enclose a range: at least two, at most ``most``.

    Steps are 1, 2 or 5 times a power of ten.
    """
    if highest <= lowest:
        margin = abs(lowest) * 0.1 or 1.0
        lowest, highest = lowest - margin, highest + margin
    power = 10.0 ** (math.floor(math.log10((highest - lowest) / most)) - 1)
    for step in (factor * power * 10**more for more in range(4) for factor in (1, 2, 5)):
        # a small tolerance, so that 0.30000000000000004 does not need one more tick
        first, last = math.floor(lowest / step + 1e-9), math.ceil(highest / step - 1e-9)
        if last - first < most:
            break
    return [round(number * step, 12) for number in range(first, last + 1)]


def _finite(line: Series) -> list[tuple[float, float, float, float]]:
    """Return (x, y, low, high) of every finite point."""
    low, high = line.low or line.y, line.high or line.y
    return [
        point
        for point in zip(line.x, line.y, low, high, strict=True)
        if all(math.isfinite(value) for value in point)
    ]


def _line(
    name: str,
    index: int,
    points: Sequence[tuple[float, float, float, float]],
    across: _Scale,
    upwards: _Scale,
) -> dict[str, object]:
    coordinates = [(across(x), upwards(y)) for x, y, _, _ in points]
    lower = [(across(x), upwards(low)) for x, _, low, _ in points]
    upper = [(across(x), upwards(high)) for x, _, _, high in points]
    return {
        "name": name,
        "colour": index % 6 + 1,
        "marker": MARKERS[index % len(MARKERS)],
        # A training curve has thousands of points: its markers would overlap.
        "coordinates": coordinates if len(coordinates) <= 24 else [],
        "path": _joined(coordinates),
        "band": _joined(lower + upper[::-1]) if lower != upper else "",
    }


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _number(value: float, all_ticks: Sequence[float]) -> str:
    """Write a tick with enough decimals to distinguish the ticks."""
    step = all_ticks[1] - all_ticks[0]
    if abs(all_ticks[-1]) >= 1e5 or step < 1e-4:
        return f"{value:.3g}"
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
