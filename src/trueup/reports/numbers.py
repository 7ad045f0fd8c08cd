"""Numbers as people read them: few digits, a true minus sign, ticks at round values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MINUS = "−"
MOST_POINTS = 400


def tidy(value: float, digits: int = 3) -> str:
    """A number with ``digits`` significant digits, a whole one as it is; very small ones are written 2e−5."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    places = 0 if value == int(value) else max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:,.{places}f}".replace("-", MINUS)


def alike(values: Sequence[float]) -> list[str]:
    """Several finite numbers, all with as many decimals as their spread needs."""
    spread = max(values) - min(values)
    scale = spread if spread > 0 else max(abs(values[0]), 1e-12)
    if scale < 1e-3 or max(abs(v) for v in values) >= 1e7:
        return [tidy(v) for v in values]
    places = max(0, 2 - math.floor(math.log10(scale)) - 1)
    return [f"{v:,.{places}f}".replace("-", MINUS) for v in values]


def whole(value: float) -> str:
    """A count, thousands separated."""
    return f"{int(value):,}"


def percent(value: float) -> str:
    """A share as a percentage: whole, or with one decimal where it is near 0 or 1."""
    places = 0 if 0.0995 <= abs(value) < 0.9895 or value in (0.0, 1.0) else 1
    return f"{100 * value:.{places}f}\u202f%".replace("-", MINUS)


def duration(seconds: float) -> str:
    """A time in the two largest units."""
    total = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values within ``[low, high]``, as many as fit but at most ``most``; both ends finite and ``low < high``."""
    power = 10.0 ** (math.floor(math.log10(high - low)) - 2)
    steps = [m * power * 10**k for k in range(4) for m in (1, 2, 2.5, 5)]
    step = next(s for s in steps if math.floor(high / s + 1e-9) - math.ceil(low / s - 1e-9) < most)
    first = math.ceil(low / step - 1e-9)
    return [(first + i) * step for i in range(math.floor(high / step + 1e-9) - first + 1)]


def tick_words(values: Sequence[float]) -> list[str]:
    """Labels of ticks, with as many decimals as tell them apart."""
    step = values[1] - values[0] if len(values) > 1 else max(abs(values[0]), 1.0) if values else 1.0
    largest = max((abs(v) for v in values), default=0.0)
    if largest >= 1e6 or step < 1e-4:
        return ["0" if v == 0 else f"{v:.2g}".replace("e-0", "e-").replace("-", MINUS) for v in values]
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    places += not math.isclose(round(step, places), step, rel_tol=1e-6)
    return [f"{v + 0.0:,.{places}f}".replace("-", MINUS) for v in values]


def span(values: Sequence[float], *, zero: bool = False) -> tuple[float, float]:
    """The range of an axis: that of the finite values with a little room; never empty."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-12):
        room = 0.5 * abs(low) if abs(low) > 1e-300 else 0.5
        return low - room, high + room
    room = 0.06 * (high - low)
    return low if zero and low == 0 else low - room, high if zero and high == 0 else high + room


def thinned(
    steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float]]:
    """At most ``most`` points, in order: of each stretch of a longer series the least and the greatest value.

    Values that are not finite are kept out of the comparison; a stretch without a finite one keeps its first.
    """
    if len(steps) <= most:
        return list(steps), list(values)
    kept: list[int] = [0]
    for part in np.array_split(np.arange(1, len(values) - 1), most // 2 - 1):
        finite = [int(i) for i in part if math.isfinite(values[i])] or [int(part[0])]
        ends = {min(finite, key=lambda i: values[i]), max(finite, key=lambda i: values[i])}
        kept += sorted(ends)
    kept.append(len(values) - 1)
    return [steps[i] for i in kept], [values[i] for i in kept]


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Centred running mean over ``window`` (odd) values, over fewer at the ends; non-finite ones are left out."""
    half = window // 2
    array = np.asarray(values, dtype=float)
    finite = np.isfinite(array)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, array, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(array))
    low, high = np.maximum(0, index - half), np.minimum(len(array), index + half + 1)
    number = counts[high] - counts[low]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (sums[high] - sums[low]) / number
    return [float(m) if n else math.nan for m, n in zip(mean, number, strict=True)]
