"""Small charts for table cells as inline SVG in percent, so that their strokes and dots never change size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trueup.reports.numbers import tidy
from trueup.reports.svg import EMPTY


@dataclass(frozen=True, slots=True)
class Mark:
    """An estimate to be drawn on a strip; ``low`` and ``high`` None: no interval."""

    mean: float
    low: float | None
    high: float | None
    tone: str


def strip_range(marks: Sequence[Mark], extra: Sequence[float] = ()) -> tuple[float, float]:
    """The range that holds all estimates and intervals, with room at both ends."""
    values = [v for m in marks for v in (m.mean, m.low, m.high) if v is not None] + list(extra)
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.5 * abs(low) or 0.5
    return low - room, high + room


def interval_strip(marks: Sequence[Mark], within: tuple[float, float], reference: float | None = None) -> Markup:
    """Estimates below one another on a common scale, each with its interval; a dashed line at ``reference``."""
    size = 14 * len(marks) + 8
    parts: list[Markup] = []
    if reference is not None and within[0] <= reference <= within[1]:
        x = _percent(reference, within)
        parts.append(Markup('<line class="mark" x1="{}" x2="{}" y1="0" y2="100%"/>').format(x, x))
    for index, mark in enumerate(marks):
        y = 11 + 14 * index
        if mark.low is not None and mark.high is not None:
            low, high = (_percent(v, within) for v in (mark.low, mark.high))
            parts.append(Markup('<line class="whisker {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                mark.tone, low, high, y, y))  # fmt: skip
        kind = "dot" if mark.low is not None else "ring"
        parts.append(Markup('<circle class="{} {}" cx="{}" cy="{}" r="4.5"/>').format(
            kind, mark.tone, _percent(mark.mean, within), y))  # fmt: skip
    told = "; ".join(f"{tidy(m.mean)} [{_end(m.low)}, {_end(m.high)}]" for m in marks)
    return _strip(parts, size, told)


def range_strip(values: Sequence[float], most: float) -> Markup:
    """Lengths at a glance: a thin line from least to most, a thick one from the median to the 95th percentile.

    Args:
        values: least, median, mean, 95th percentile and most.
        most: right end of the scale.
    """
    low, middle, mean, p95, high = values
    within = (0.0, max(most, 1.0))
    a, b, c, d, e = (_percent(v, within) for v in (low, middle, mean, p95, high))
    parts = [
        Markup('<line class="axis" x1="{}" x2="{}" y1="11" y2="11"/>').format(a, e),
        Markup('<line class="thick one" x1="{}" x2="{}" y1="11" y2="11"/>').format(b, d),
        Markup('<circle class="dot one" cx="{}" cy="11" r="4.5"/>').format(b),
        Markup('<line class="median one" x1="{}" x2="{}" y1="4" y2="18"/>').format(c, c),
    ]
    words = (("least", low), ("median", middle), ("mean", mean), ("95 % below", p95), ("most", high))
    return _strip(parts, 22, ", ".join(f"{word} {tidy(v)}" for word, v in words))


def lane(spans: Sequence[tuple[int, int, str]], last: int) -> Markup:
    """When a monitor spoke: (since, step, level); a bar from the onset to the step, a flag at the step."""
    within = (0.0, float(max(last, 1)))
    parts = [Markup('<line class="axis" x1="0" x2="100%" y1="13" y2="13"/>')]
    for since, step, level in spans:
        kind = "alarm" if level == "alarm" else "warn"
        a, b = _percent(max(0, min(since, step)), within), _percent(step, within)
        parts.append(Markup('<line class="since {}" x1="{}" x2="{}" y1="13" y2="13"/>').format(kind, a, b))
        parts.append(Markup('<circle class="flag {}" cx="{}" cy="13" r="5"/>').format(kind, b))
    told = "; ".join(f"{level} at step {step}, since {since}" for since, step, level in spans)
    return _strip(parts, 26, told)


def _strip(parts: Sequence[Markup], height: int, told: str) -> Markup:
    return Markup('<svg class="strip" width="100%" height="{}" role="img" aria-label="{}">{}</svg>').format(
        height, told, EMPTY.join(parts)
    )


def _percent(value: float, within: tuple[float, float]) -> str:
    """A place between both ends of a range, kept 2 % away from the edges so that no dot is cut."""
    share = (value - within[0]) / (within[1] - within[0])
    return f"{2 + 96 * min(1.0, max(0.0, share)):.2f}%"


def _end(value: float | None) -> str:
    return "unknown" if value is None else tidy(value)
