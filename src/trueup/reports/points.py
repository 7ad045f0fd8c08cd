"""Charts of points as inline SVG: reward against KL, and how values are distributed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from trueup.reports.charts import TONES, Frontier, Spread
from trueup.reports.numbers import span, tick_words, ticks, tidy
from trueup.reports.svg import EMPTY, LEFT, TOP, WIDTH, Frame, apart, grid, path_of, picture, x_title

ROW = 58.0
FOOT = 36.0  # tick labels and the name of the axis
FEW = 30
MOST_DOTS = 200


def frontier_svg(chart: Frontier) -> Markup:
    """Reward against KL: dots that darken from the first step to the last, both ends named."""
    paths = list(chart.points.items())
    points = [p for _, path in paths for p in path]
    many = len(paths) > 1
    room = min(118, 16 + max(6.4 * len(name) for name, _ in paths)) if many else 20
    frame = Frame(span([p[0] for p in points]), span([p[1] for p in points]), WIDTH - room, 300, FOOT)
    parts = [grid(frame), x_title(frame, chart.x_title)]
    ends: list[tuple[float, str, str]] = []
    for index, (name, path) in enumerate(paths):
        tone = TONES[index % len(TONES)]
        parts += _path(frame, chart, name, path, tone)
        if many:
            ends.append((frame.py(path[-1][1]), name, tone))
        else:
            parts += [_end(frame, p, f"{chart.step_word} {tidy(p[2], 6)}", tone) for p in (path[0], path[-1])]
    ends.sort()
    for y, (_, name, tone) in zip(apart([e[0] for e in ends], TOP + 4, frame.base - 2), ends, strict=True):
        parts.append(_label(frame.right + 7, y + 3.5, name, tone))
    return picture(parts, f"{chart.y_title} against {chart.x_title}, {len(points)} points", height=300)


def _path(
    frame: Frame, chart: Frontier, name: str, path: Sequence[tuple[float, float, float]], tone: str
) -> list[Markup]:
    line = path_of(frame, [p[0] for p in path], [p[1] for p in path])
    parts = [Markup('<path class="faint {}" d="{}"/>').format(tone, line)]
    some = path[:: max(1, len(path) // MOST_DOTS)]
    for i, (x, y, step) in enumerate(some):
        told = f"{name + ', ' if name else ''}{chart.step_word} {tidy(step, 6)}: KL {tidy(x)}, score {tidy(y)}"
        dot = '<circle class="dot {}" cx="{}" cy="{}" r="3.6" fill-opacity="{}"><title>{}</title></circle>'
        shade = round(0.2 + 0.8 * (i + 1) / len(some), 2)
        parts.append(Markup(dot).format(tone, frame.px(x), frame.py(y), shade, told))
    return parts


def _label(x: float, y: float, text: str, tone: str, anchor: str = "start") -> Markup:
    words = '<text class="label halo {}" x="{}" y="{}" text-anchor="{}">{}</text>'
    return Markup(words).format(tone, round(x, 1), round(y, 1), anchor, text)


def _end(frame: Frame, point: tuple[float, float, float], word: str, tone: str) -> Markup:
    x, y = frame.px(point[0]), frame.py(point[1])
    left = x < (LEFT + frame.right) / 2
    ring = Markup('<circle class="ring {}" cx="{}" cy="{}" r="6.5"/>').format(tone, x, y)
    return ring + _label(x + (10 if left else -10), max(TOP + 8, y - 8), word, tone, "start" if left else "end")


def spread_svg(chart: Spread) -> Markup:
    """One row a set of values on a common axis: dots if they are few, a histogram if they are many; its mean."""
    rows = {name: [v for v in row if math.isfinite(v)] for name, row in chart.rows.items()}
    rows = {name: row for name, row in rows.items() if row}
    height = TOP + len(rows) * ROW + FOOT
    values = [v for row in rows.values() for v in row]
    columns = columns_of(values)
    within = (min(values) - 0.6, max(values) + 0.6) if columns.each else span(values)
    frame = Frame(within, (0, 1), WIDTH - 14, height, FOOT)
    parts = [_axis(frame, columns.each), x_title(frame, chart.unit)]
    tallest = max(columns.counts(row).max() / len(row) for row in rows.values())
    for index, (name, row) in enumerate(rows.items()):
        tone = "grey" if index == 0 and len(rows) == 2 else TONES[(index - (len(rows) == 2)) % len(TONES)]
        base = TOP + (index + 1) * ROW - 6
        if len(row) <= FEW:
            parts += _dots(frame, row, base, tone)
        else:
            parts += _columns(frame, row, base, columns, tallest, tone)
        parts.append(_mean(frame, row, base, name, tone))
    told = "; ".join(f"{n}: {len(r)} values, mean {tidy(float(np.mean(r)))}" for n, r in rows.items())
    return picture(parts, f"{chart.title} ({chart.unit}); {told}", height=height)


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the columns of a histogram lie: the left edge of the first, their width, and what one covers in words."""

    first: float
    width: float
    each: bool

    def counts(self, row: Sequence[float]) -> np.ndarray:
        """How many values lie in each column, ``[K]``."""
        return np.bincount(np.floor((np.asarray(row) - self.first) / self.width + 1e-9).astype(int))

    def words(self, index: int) -> str:
        """What a column covers."""
        left = self.first + index * self.width
        if self.each:
            return tidy(left + self.width / 2)
        return " to ".join(tick_words([left, left + self.width]))


def columns_of(values: Sequence[float]) -> Columns:
    """One column a value where they are whole numbers close together, else about 24 of a round width."""
    within = span(values)
    found = ticks(*within, 25)
    width = found[1] - found[0] if len(found) > 1 else within[1] - within[0]
    whole = all(v == int(v) for v in values)
    if whole and width <= 1:
        return Columns(min(values) - 0.5, 1.0, True)
    width = float(math.ceil(width)) if whole else width
    return Columns(math.floor(within[0] / width) * width, width, False)


def _columns(
    frame: Frame, row: Sequence[float], base: float, columns: Columns, tallest: float, tone: str
) -> list[Markup]:
    parts: list[Markup] = []
    for index, count in enumerate(columns.counts(row).tolist()):
        if count:
            left, right = (columns.first + (index + i) * columns.width for i in (0, 1))
            a, b = (min(max(frame.px(v), LEFT), frame.right) for v in (left, right))
            size = round((ROW - 22) * (count / len(row)) / tallest, 1)
            across = max(1.0, round(min(0.7 * (b - a), 28) if columns.each else b - a - 1, 1))
            bar = '<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
            told = f"{columns.words(index)}: {count} of {len(row)}"
            place = round((a + b - across) / 2, 1)
            parts.append(Markup(bar).format(tone, place, round(base - size, 1), across, size, told))
    return parts


def _dots(frame: Frame, row: Sequence[float], base: float, tone: str) -> list[Markup]:
    """A dot a value; those that would touch are stacked."""
    parts: list[Markup] = []
    heights: dict[int, int] = {}
    for value in sorted(row):
        slot = round(frame.px(value) / 9)
        level = heights.get(slot, 0)
        heights[slot] = level + 1
        dot = '<circle class="dot {}" cx="{}" cy="{}" r="4" fill-opacity="0.75"><title>{}</title></circle>'
        y = round(base - 5 - min(level, 3) * 8.5, 1)
        parts.append(Markup(dot).format(tone, frame.px(value), y, tidy(value)))
    return parts


def _mean(frame: Frame, row: Sequence[float], base: float, name: str, tone: str) -> Markup:
    mean = float(np.mean(row))
    x = frame.px(mean)
    left = x < (LEFT + frame.right) / 2
    rule = Markup('<line class="median {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(tone, x, x, base - ROW + 16, base)
    floor = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, frame.right, base, base)
    word = f"{name}: mean {tidy(mean)}, n = {len(row)}"
    label = _label(x + (5 if left else -5), base - ROW + 20, word, tone, "start" if left else "end")
    return floor + rule + label


def _axis(frame: Frame, whole: bool) -> Markup:
    bottom = frame.base
    values = [v for v in ticks(*frame.x, 6) if not whole or v == int(v)]
    parts = [Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, frame.right, bottom, bottom)]
    for value, word in zip(values, tick_words(values), strict=True):
        text = '<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>'
        parts.append(Markup(text).format(frame.px(value), bottom + 16, word))
    return EMPTY.join(parts)
