"""The charts of a report as PNG files, for slides and papers; the same values as in the page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trueup.reports.charts import TONES, Frontier, LineChart, Series, Spread

COLOURS: dict[str, str] = dict(
    zip(TONES, ("#1f62b5", "#c04e12", "#0b7a60", "#97488c", "#8f6a00", "#16809f", "#7a5a3a", "#55606e"), strict=True)
)
GREY, INK, HAIR = "#8a877f", "#1d1c1a", "#e5e2da"


def png_of(chart: LineChart | Frontier | Spread) -> bytes:
    """One chart as a PNG file of about 1200 pixels."""
    figure = Figure(figsize=(6.0, 3.6), dpi=200)
    figure.subplots_adjust(left=0.12, right=0.97, top=0.9, bottom=0.14)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if isinstance(chart, LineChart):
        _lines(axes, chart)
    elif isinstance(chart, Frontier):
        _frontier(axes, chart)
    else:
        _spread(axes, chart)
    axes.set_title(_plain(chart.title), loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.tick_params(colors=GREY, labelsize=8, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _plain(text: str) -> str:
    """Without what matplotlib reads as mathematics."""
    return text.replace("$", r"\$")


def _labelled(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(_plain(x), fontsize=8, color=INK)
    axes.set_ylabel(_plain(y), fontsize=8, color=INK)
    axes.grid(axis="y", color=HAIR, linewidth=0.8)
    axes.set_axisbelow(True)


def _lines(axes: Axes, chart: LineChart) -> None:
    for series in chart.series:
        colour = COLOURS[series.tone]
        label = _plain(series.label or ("held-out" if series.ends is not None else ""))
        if series.ends is not None:
            _measured(axes, series, colour, label)
            continue
        y = _finite(series.y)
        many: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.4} if series.smooth is not None else {"linewidth": 1.6}
        axes.plot(series.x, y, color=colour, marker="o" if len(series.x) < 3 else None, markersize=4,
                  label=None if series.smooth is not None else label, **many)  # fmt: skip
        if series.smooth is not None:
            axes.plot(series.x, _finite(series.smooth), color=colour, linewidth=1.8, label=label)
    for step, level in chart.marks:
        axes.axvline(step, color="#b3261e" if level == "alarm" else "#9a6400", linewidth=0.9, linestyle="--")
    if any(s.label for s in chart.series) or any(s.ends is not None for s in chart.series):
        axes.legend(fontsize=8, frameon=False)
    _labelled(axes, chart.x_title, chart.unit)


def _finite(values: Sequence[float]) -> list[float]:
    """Gaps where a value is not finite: matplotlib leaves out nan, not infinity."""
    return [v if math.isfinite(v) else math.nan for v in values]


def _measured(axes: Axes, series: Series, colour: str, label: str) -> None:
    ends = series.ends or ()
    low = [y - e[0] if e else 0.0 for y, e in zip(series.y, ends, strict=True)]
    high = [e[1] - y if e else 0.0 for y, e in zip(series.y, ends, strict=True)]
    sides = np.maximum(np.nan_to_num([low, high], posinf=0, neginf=0), 0)
    axes.errorbar(
        series.x, _finite(series.y), yerr=sides, color=colour, fmt="o", markersize=4, linewidth=1, linestyle=":",
        elinewidth=1.2, label=label,
    )  # fmt: skip


def _frontier(axes: Axes, chart: Frontier) -> None:
    for (name, path), colour in zip(chart.points.items(), list(COLOURS.values()) * len(chart.points), strict=False):
        x, y = [p[0] for p in path], [p[1] for p in path]
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.35)
        axes.scatter(
            x, y, color=colour, s=14, alpha=np.linspace(0.2, 1, len(path)).tolist(), label=_plain(name) or None
        )
    if len(chart.points) > 1:
        axes.legend(fontsize=8, frameon=False)
    _labelled(axes, chart.x_title, chart.y_title)


def _spread(axes: Axes, chart: Spread) -> None:
    values = [v for row in chart.rows.values() for v in row if math.isfinite(v)]
    bins = np.histogram_bin_edges(values, bins=24)
    for index, (name, row) in enumerate(chart.rows.items()):
        finite = [v for v in row if math.isfinite(v)]
        colour = (
            GREY
            if index == 0 and len(chart.rows) == 2
            else COLOURS[TONES[(index - (len(chart.rows) == 2)) % len(TONES)]]
        )
        weights = [1 / max(1, len(finite))] * len(finite)
        axes.hist(finite, bins=bins.tolist(), weights=weights, histtype="stepfilled", alpha=0.35, color=colour,
                  label=_plain(f"{name} (n = {len(finite)})"))  # fmt: skip
    axes.legend(fontsize=8, frameon=False)
    _labelled(axes, chart.unit, "share of answers")
