"""What is drawn: charts as plain values. :mod:`.svg` draws them in the page, :mod:`.pictures` as PNG."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trueup.reports.names import GROUPS, Group, Panel, name_of
from trueup.reports.numbers import smoothed
from trueup.reports.read import Curve, RunView

SMOOTH_FROM = 40  # points
MOST_DRAWN = 1e100
TONES = ("one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        label: stands at its end; empty: none.
        tone: its colour, one of :data:`TONES`.
        x, y: ``[n]``; ``y`` may hold values that are not finite.
        ends: low and high of the 95 % interval of each point, ``[n]``; None: measured once a step.
        smooth: running mean ``[n]`` to be drawn over the points; None: the points are drawn as they are.
    """

    label: str
    tone: str
    x: Sequence[float]
    y: Sequence[float]
    ends: Sequence[tuple[float, float] | None] | None = None
    smooth: Sequence[float] | None = None

    @property
    def lost(self) -> int:
        """Points that are not finite."""
        return sum(not math.isfinite(v) for v in self.y)


@dataclass(frozen=True, slots=True)
class LineChart:
    """Values over steps.

    Attributes:
        key: name of its file.
        title: in words.
        unit: of the values.
        series: at least one point among them.
        marks: steps at which a monitor spoke, and how loudly (``warn``, ``alarm``).
        change: first and last value in words, where the chart has one subject.
        notes: what a reader must know.
    """

    key: str
    title: str
    unit: str
    series: Sequence[Series]
    marks: Sequence[tuple[int, str]] = ()
    change: tuple[float, float] | None = None
    notes: Sequence[str] = ()
    x_title: str = "step"


@dataclass(frozen=True, slots=True)
class Frontier:
    """Reward against KL, from the first step to the last; ``points`` are (kl, score, step)."""

    key: str
    title: str
    x_title: str
    y_title: str
    points: Mapping[str, Sequence[tuple[float, float, float]]]
    step_word: str = "step"


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are distributed, before and after (or of several runs); one row each."""

    key: str
    title: str
    unit: str
    rows: Mapping[str, Sequence[float]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ChartGroup:
    """Charts under one heading; ``folded``: shown on demand."""

    title: str
    charts: Sequence[LineChart]
    folded: bool = False


@dataclass(slots=True)
class _Taken:
    """Metrics that some panel has drawn."""

    names: set[str] = field(default_factory=set[str])


def curve_groups(view: RunView) -> list[ChartGroup]:
    """The curves of a run, by question; metrics that no panel names come last."""
    taken = _Taken({"round", "tokens_per_second/peak", "score/raw", "micro_batches"})
    found: list[ChartGroup] = []
    for group in GROUPS:
        charts = _charts(view, group, taken)
        if group is GROUPS[-1]:
            left = [m for m in view.curves if m not in taken.names and not m.startswith("eval/")]
            more = [_chart(view, Panel(name_of(m).title, {m: "training"})) for m in sorted(left)]
            charts += [c for c in more if c is not None]
        if charts:
            found.append(ChartGroup(group.title, charts, group.folded))
    return found


def _charts(view: RunView, group: Group, taken: _Taken) -> list[LineChart]:
    charts: list[LineChart] = []
    for panel in group.panels:
        chart = _chart(view, panel)
        if chart is not None:
            charts.append(chart)
            taken.names |= set(panel.metrics)
    return charts


def _chart(view: RunView, panel: Panel) -> LineChart | None:
    """The chart of a panel; None if the run has none of its metrics."""
    there = [m for m in panel.metrics if m in view.curves and view.curves[m].values]
    if there == ["reward", "score"] or (there == ["score", "reward"] and _same(view, "score", "reward")):
        there = ["score"]
    series: list[Series] = []
    alone = len(there) == 1
    for tone, metric in zip(TONES, there, strict=False):
        measured = held_out(view, metric.removeprefix("eval/"))
        if metric.startswith("eval/") and measured is not None:
            series.append(Series("", tone, *measured))
            continue
        label = ("training" if measured else "") if alone else panel.metrics[metric]
        series.append(line(view.curves[metric], label, tone))
        if measured is not None:
            series.append(
                Series("held-out" if alone else "", "two" if alone else tone, measured[0], measured[1], measured[2])
            )
    if not series:
        return None
    shown = view.curves[there[0]]
    change = (shown.finite[0], shown.finite[-1]) if alone and len(shown.finite) > 1 else None
    title = panel.title if len(there) > 1 or len(panel.metrics) == 1 else name_of(there[0]).title
    marks = [(a.step, a.level) for a in view.alarms or ()]
    return LineChart(file_key(there[0]), title, name_of(there[0]).unit, series, marks, change, notes_of(series))


def file_key(name: str) -> str:
    """A name as part of a file name: letters, digits and dashes only."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:80] or "chart"


def _same(view: RunView, one: str, other: str) -> bool:
    return view.curves[one].values == view.curves[other].values


def line(curve: Curve, label: str, tone: str) -> Series:
    """A metric as it was logged, with a running mean where there are many points."""
    values = list(map(drawable, curve.values))
    smooth = None
    if len(values) >= SMOOTH_FROM and not _even(values):
        smooth = smoothed(values, window(len(values)))
    return Series(label, tone, curve.steps, values, smooth=smooth)


def drawable(value: float) -> float:
    """The value, or an infinite one if it is too large for an axis."""
    return value if abs(value) < MOST_DRAWN else value * math.inf


def window(n: int) -> int:
    """How many steps a running mean spans: odd, a twentieth of all, five at least."""
    return max(5, n // 20 | 1)


def _even(values: Sequence[float]) -> bool:
    """Whether a curve is smooth by itself: neighbouring steps differ far less than the whole curve moves."""
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 3:
        return True
    jumps = sum(abs(b - 2 * m + a) for a, m, b in zip(finite, finite[1:], finite[2:], strict=False)) / len(finite)
    return jumps <= 0.01 * (max(finite) - min(finite))


Points = tuple[list[float], list[float], list[tuple[float, float] | None]]


def held_out(view: RunView, metric: str) -> Points | None:
    """Steps, means and intervals of a metric on held-out rows: before, during and after; None if never measured."""
    points: dict[float, tuple[float, tuple[float, float] | None]] = {}
    if metric in view.before:
        m = view.before[metric]
        points[0.0] = (m.mean, None if m.low is None or m.high is None else (m.low, m.high))
    curve = view.curves.get(f"eval/{metric}")
    if curve is not None:
        low, high = (view.curves.get(f"eval/{metric}/{end}") for end in ("low", "high"))
        lows = dict(zip(low.steps, low.values, strict=True)) if low else {}
        highs = dict(zip(high.steps, high.values, strict=True)) if high else {}
        for step, value in zip(curve.steps, curve.values, strict=True):
            ends = (lows.get(step, math.nan), highs.get(step, math.nan))
            points[step] = (drawable(value), ends if all(abs(e) < MOST_DRAWN for e in ends) else None)
    if metric in view.after and float(view.steps) not in points and view.steps:
        m = view.after[metric]
        points[float(view.steps)] = (m.mean, None if m.low is None or m.high is None else (m.low, m.high))
    if not points:
        return None
    steps = sorted(points)
    return steps, [points[s][0] for s in steps], [points[s][1] for s in steps]


def notes_of(series: Iterable[Series]) -> list[str]:
    """What a reader of the chart must know."""
    series, notes = list(series), list[str]()
    if any(s.smooth is not None for s in series):
        notes.append(f"thick: mean of {window(max(len(s.x) for s in series))} steps around; thin: each step")
    if any(s.ends is not None for s in series):
        notes.append("dots: held-out rows with 95\u202f% interval")
    lost = sum(s.lost for s in series)
    if lost:
        notes.append(f"× {lost} {'value is' if lost == 1 else 'values are'} not finite")
    return notes


def frontier(view: RunView) -> Frontier | None:
    """Score against KL, by step or by round; None for methods that do not log both."""
    for kl, score, unit in (("kl", "score", "step"), ("round/kl", "round/score", "round")):
        points = frontier_points(view, kl, score)
        if len(points) > 1:
            word = "Score against KL, by round" if unit == "round" else "Score against KL"
            y = f"{name_of(score).title}"
            return Frontier("frontier", word, f"KL to the reference, {name_of(kl).unit}", y, {"": points}, unit)
    return None


def frontier_points(view: RunView, kl: str = "kl", score: str = "score") -> list[tuple[float, float, float]]:
    """(kl, score, step) of every step that logged both as finite numbers; rounds count from 1."""
    a, b = view.curves.get(kl), view.curves.get(score)
    if a is None or b is None:
        return []
    scores = dict(zip(b.steps, b.values, strict=True))
    found = [(k, scores[s], s) for s, k in zip(a.steps, a.values, strict=True) if s in scores]
    found = [p for p in found if abs(p[0]) < MOST_DRAWN and abs(p[1]) < MOST_DRAWN]
    return [(k, v, float(i)) for i, (k, v, _) in enumerate(found, 1)] if kl == "round/kl" else found
