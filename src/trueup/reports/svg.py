"""Charts as inline SVG: numbers in, markup out. Text is escaped, coordinates are finite, colours are CSS classes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trueup.reports.charts import LineChart, Series
from trueup.reports.numbers import span, thinned, tick_words, ticks, tidy

WIDTH, HEIGHT = 440, 204
LEFT, TOP, BOTTOM = 46, 12, 24
LABEL_GAP = 13.5
HOVER_POINTS = 240
EMPTY = Markup("")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where data lie in a chart: ranges of both axes and the edges of the plot, in pixels of the view box."""

    x: tuple[float, float]
    y: tuple[float, float]
    right: float
    height: float = HEIGHT
    foot: float = BOTTOM

    @property
    def base(self) -> float:
        """Pixel of the lower edge of the plot."""
        return self.height - self.foot

    def px(self, value: float) -> float:
        """Pixel of a value of x."""
        low, high = self.x
        return round(LEFT + (value - low) / (high - low) * (self.right - LEFT), 1)

    def py(self, value: float) -> float:
        """Pixel of a value of y."""
        low, high = self.y
        return round(self.base - (value - low) / (high - low) * (self.base - TOP), 1)


def line_svg(chart: LineChart) -> Markup:
    """A line chart of 440 by 216, with grid, direct labels, intervals, alarms, and its values for the pointer."""
    labels = [s.label for s in chart.series if s.label]
    right = WIDTH - (14 if not labels else min(118, 16 + max(6.4 * len(label) for label in labels)))
    frame = Frame(_steps_range(chart.series), _values_range(chart.series), right)
    parts = [grid(frame, chart.x_title), _marks(frame, chart)]
    apart_by = _dodge(chart.series)
    parts += [_series(frame, s, shift) for s, shift in zip(chart.series, apart_by, strict=True)]
    parts += [_lost(frame, chart.series), _labels(frame, chart.series), _hover_layer()]
    return picture(parts, _told(chart), hover=_hover(frame, chart))


def _steps_range(series: Sequence[Series]) -> tuple[float, float]:
    """From step 0 on: charts of one run then have one axis."""
    xs = [x for s in series for x in s.x]
    return min(0.0, *xs), max(1.0, *xs)


def _values_range(series: Sequence[Series]) -> tuple[float, float]:
    values = [v for s in series for v in s.y]
    inner = span(values)
    room = 1.5 * (inner[1] - inner[0])
    for s in series:  # wide intervals are cut rather than flattening the curve
        for ends in s.ends or ():
            values += [] if ends is None else [max(ends[0], inner[0] - room), min(ends[1], inner[1] + room)]
    return span(values)


def grid(frame: Frame, counted: str = "") -> Markup:
    """Both axes with their ticks; what is ``counted`` along x has whole numbers only and is named at the first."""
    parts: list[Markup] = []
    values = ticks(*frame.y, 5)
    for value, word in zip(values, tick_words(values), strict=True):
        y = frame.py(value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, frame.right, y, y))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 7, y + 3.5, word)
        )
    bottom = frame.base
    values = ticks(*frame.x, 7)
    values = [v for v in values if v == int(v)] if counted else values
    words = tick_words(values)
    if counted and words:
        words[0] = f"{counted} {words[0]}"
    for value, word in zip(values, words, strict=True):
        x = frame.px(value)
        parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, bottom, bottom + 4))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(x, bottom + 16, word)
        )
    parts.append(
        Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, frame.right, bottom, bottom)
    )
    return EMPTY.join(parts)


def x_title(frame: Frame, title: str) -> Markup:
    """What is counted along x, below its right end."""
    return Markup('<text class="tick quiet" x="{}" y="{}" text-anchor="end">{}</text>').format(
        frame.right, frame.height - 2, title
    )


def _marks(frame: Frame, chart: LineChart) -> Markup:
    parts: list[Markup] = []
    for step, level in chart.marks:
        if frame.x[0] <= step <= frame.x[1]:
            x, kind = frame.px(step), "alarm" if level == "alarm" else "warn"
            parts.append(Markup('<line class="mark {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                kind, x, x, TOP, frame.base))  # fmt: skip
            parts.append(Markup('<path class="flag {}" d="M{} {}l-4 -7h8z"/>').format(kind, x, TOP))
    return EMPTY.join(parts)


def path_of(frame: Frame, xs: Sequence[float], ys: Sequence[float]) -> str:
    """A path through the finite points, broken where a value is not finite; a lone point is a short stroke."""
    words: list[str] = []
    pen = False
    for x, y in zip(xs, ys, strict=True):
        if not math.isfinite(y):
            pen = False
            continue
        words.append(f"{'L' if pen else 'M'}{frame.px(x)} {frame.py(y)}")
        pen = True
    return "".join(words)


def _dodge(series: Sequence[Series]) -> list[float]:
    """Pixels that each series is moved by, so that intervals at the same step do not cover each other."""
    measured = [i for i, s in enumerate(series) if s.ends is not None]
    return [4.0 * (measured.index(i) - (len(measured) - 1) / 2) if i in measured else 0.0 for i in range(len(series))]


def _series(frame: Frame, series: Series, shift: float = 0.0) -> Markup:
    if series.ends is not None:
        drawn = _measured(frame, series)
        return Markup('<g transform="translate({} 0)">{}</g>').format(shift, drawn) if shift else drawn
    parts: list[Markup] = []
    xs, ys = thinned(series.x, series.y)
    kind = "raw" if series.smooth is not None else "line"
    parts.append(Markup('<path class="{} {}" d="{}"/>').format(kind, series.tone, path_of(frame, xs, ys)))
    if series.smooth is not None:
        xs, ys = thinned(series.x, series.smooth)
        parts.append(Markup('<path class="line {}" d="{}"/>').format(series.tone, path_of(frame, xs, ys)))
    elif sum(map(math.isfinite, series.y)) <= 2 or _lonely(series.y):
        parts += [_dot(frame, x, y, series.tone) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
    return EMPTY.join(parts)


def _lonely(values: Sequence[float]) -> bool:
    """Whether some finite value has no finite neighbour, so that no line would show it."""
    finite = [math.isfinite(v) for v in values]
    return any(f and not any(finite[max(0, i - 1) : i] + finite[i + 1 : i + 2]) for i, f in enumerate(finite))


def _dot(frame: Frame, x: float, y: float, tone: str, radius: float = 3.2) -> Markup:
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"/>').format(tone, frame.px(x), frame.py(y), radius)


def _measured(frame: Frame, series: Series) -> Markup:
    """Dots with whiskers, joined by a thin line."""
    parts = [Markup('<path class="thin {}" d="{}"/>').format(series.tone, path_of(frame, series.x, series.y))]
    small = len(series.x) > 30
    for x, y, ends in zip(series.x, series.y, series.ends or (), strict=True):
        if not math.isfinite(y):
            continue
        if ends is not None:
            low, high = (min(max(e, frame.y[0]), frame.y[1]) for e in ends)
            parts.append(Markup('<line class="whisker {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                series.tone, frame.px(x), frame.px(x), frame.py(low), frame.py(high)))  # fmt: skip
        parts.append(_dot(frame, x, y, series.tone, 2.2 if small else 3.4))
    return EMPTY.join(parts)


def _lost(frame: Frame, series: Iterable[Series]) -> Markup:
    """Crosses on the axis where a value is not finite; at most fifty."""
    places = sorted({x for s in series for x, y in zip(s.x, s.y, strict=True) if not math.isfinite(y)})
    some = places[:: max(1, len(places) // 50)]
    y = frame.base - 5
    return EMPTY.join(
        Markup('<path class="lost" d="M{} {}l6 6m0 -6l-6 6"/>').format(round(frame.px(x) - 3, 1), y - 3) for x in some
    )


def _labels(frame: Frame, series: Sequence[Series]) -> Markup:
    """The name of each line at its end, moved apart where two would touch."""
    wanted: list[tuple[float, Series]] = []
    for s in series:
        drawn = [v for v in (s.smooth if s.smooth is not None else s.y) if math.isfinite(v)]
        if s.label and drawn:
            wanted.append((frame.py(min(max(drawn[-1], frame.y[0]), frame.y[1])), s))
    wanted.sort(key=lambda w: w[0])
    places = apart([w[0] for w in wanted], TOP + 4, frame.base - 2)
    return EMPTY.join(
        Markup('<text class="label {}" x="{}" y="{}">{}</text>').format(
            s.tone, frame.right + 7, round(y + 3.5, 1), s.label
        )
        for y, (_, s) in zip(places, wanted, strict=True)
    )


def apart(places: Sequence[float], low: float, high: float, gap: float = LABEL_GAP) -> list[float]:
    """Sorted places, each at least ``gap`` below the one before, within bounds as far as they all fit."""
    found = list(places)
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + gap)
    over = found[-1] - high if found else 0.0
    if over > 0:
        found[-1] -= over
        for i in range(len(found) - 2, -1, -1):
            found[i] = max(low, min(found[i], found[i + 1] - gap))
    return found


def _hover_layer() -> Markup:
    return Markup('<g class="hover" hidden=""><line class="rule" y1="{}" y2="{}"/></g>').format(TOP, HEIGHT - BOTTOM)


def _hover(frame: Frame, chart: LineChart) -> str:
    """What the pointer reads: [pixel, step, [[pixel, value, tone, label] ...]] a place, as JSON."""
    sparse = {x for s in chart.series if len(s.x) <= 60 for x in s.x}
    dense = sorted({x for s in chart.series for x in s.x} - sparse)
    places = sorted(sparse | set(dense[:: max(1, math.ceil(len(dense) / HOVER_POINTS))]))
    maps = [(s, dict(zip(s.x, s.y, strict=True))) for s in chart.series]
    rows: list[object] = []
    for x in places:
        values = [
            [
                frame.py(m[x]) if math.isfinite(m[x]) else None,
                tidy(m[x]),
                s.tone,
                s.label or ("held-out" if s.ends else ""),
            ]
            for s, m in maps
            if x in m
        ]
        rows.append([frame.px(x), tidy(x, 6), values])
    return json.dumps({"x": chart.x_title, "p": rows}, ensure_ascii=False, separators=(",", ":"))


def _told(chart: LineChart) -> str:
    """The chart in words, for those who cannot see it."""
    words = [f"{chart.title} ({chart.unit}) by {chart.x_title}" if chart.unit else f"{chart.title} by {chart.x_title}"]
    for s in chart.series:
        finite = [v for v in s.y if math.isfinite(v)]
        if finite:
            words.append(f"{s.label or ('held-out' if s.ends else 'values')}: {tidy(finite[0])} to {tidy(finite[-1])}")
    return "; ".join(words)


def picture(parts: Iterable[Markup], told: str, *, hover: str = "", height: float = HEIGHT) -> Markup:
    """The parts as one SVG element, with its words for those who cannot see it and its values for the pointer."""
    reads = Markup(' data-hover="{}" tabindex="0"').format(hover) if hover else EMPTY
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"{}>{}</svg>').format(
        WIDTH, height, told, reads, EMPTY.join(parts)
    )
