"""A figure: an estimate, how sure it is, and how small a difference the sample could have shown.

Rows that share a prompt are one cluster: they are resampled together, and the interval is as wide as that makes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from trueup.feedback.base import Answered
from trueup.ops.planning import smallest_difference
from trueup.ops.stats import Z95, Interval, bootstrap_mean
from trueup.ops.winrate import win_rate


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate with its 95 % interval.

    Attributes:
        name: of the figure; the headings of docs/evaluation.md.
        mean: the estimate.
        low, high: its 95 % interval; nan if it cannot be known (one cluster; a mean of equal values).
        n: rows behind it.
        clusters: independent units behind it (prompts, documents, groups of prompts).
        smallest_difference: between this figure and a fixed value that a two-sided test at 5 % would show with 80 %
            power, in the figure's own unit; nan if unknown. Two independent models need √2 times as much.
        note: what a reader must know to read it; may be empty.
    """

    name: str
    mean: float
    low: float
    high: float
    n: int
    clusters: int
    smallest_difference: float
    note: str = ""

    def to_json(self) -> dict[str, str | int | float | None]:
        """As plain values; what is unknown (nan) is None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }

    def __str__(self) -> str:
        """``0.61 [0.55, 0.67] n=200``, with the number of clusters where it is another one."""
        digits = _digits(self)
        bounds = "unknown" if math.isnan(self.low) else f"{self.low:.{digits}f}, {self.high:.{digits}f}"
        units = "" if self.clusters == self.n else f" ({self.clusters} clusters)"
        return f"{self.mean:.{digits}f} [{bounds}] n={self.n}{units}"


def _digits(figure: Figure) -> int:
    """Enough digits that the interval's width has two; two at least, none for wide ones."""
    width = figure.high - figure.low
    if not math.isfinite(width) or width == 0:
        return 3
    return int(min(6, max(0, 1 - math.floor(math.log10(width)))))


def prompt_of(answered: Answered) -> str:
    """The cluster of an answer: its prompt's text, whatever id the row has; its id if there is no prompt."""
    if not answered.prompt:
        return f"id:{answered.id}"
    if isinstance(answered.prompt, str):
        return answered.prompt
    return json.dumps([dict(t) for t in answered.prompt], ensure_ascii=False, sort_keys=True, default=str)


def prompts_of(answers: Sequence[Answered]) -> list[str]:
    """The cluster of every answer, ``[n]``."""
    return [prompt_of(a) for a in answers]


def mean_figure(
    name: str,
    values: np.ndarray,
    clusters: Sequence[str] | None = None,
    *,
    weights: np.ndarray | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    note: str = "",
    seed: int = 0,
) -> Figure:
    """Mean of ``values`` ``[n]`` with the cluster-bootstrap interval, cut to what is possible.

    Args:
        name: of the figure.
        values: one a row.
        clusters: name of each row's cluster; None: every row its own.
        weights: of each row; None: equal.
        bounds: least and largest value that the mean can have; the interval is cut there.
        note: of the figure.
        seed: of the resampling.

    Raises:
        ValueError: no values, lengths that differ, or a value that is not finite.
    """
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: row {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite")
    whole = bootstrap_mean(values, clusters=clusters, weights=weights, seed=seed)
    interval = Interval(whole.mean, _cut(whole.low, bounds), _cut(whole.high, bounds))
    if len(values) > 1 and values.min() == values.max():  # no interval rather than one of no width
        interval = Interval(whole.mean, math.nan, math.nan)
        note = "; ".join(part for part in (note, "all values are equal: how sure that is cannot be resampled") if part)
    count = len(values) if clusters is None else len(set(clusters))
    return Figure(name, *interval, len(values), count, _smallest(whole), note)


def rate_figure(name: str, hits: np.ndarray, clusters: Sequence[str] | None = None, *, note: str = "") -> Figure:
    """Share of rows that hit; ``hits`` ``[n]`` in [0, 1], fractions being shared credit.

    The interval is :func:`trueup.ops.winrate.win_rate`'s: it stays within [0, 1], respects clusters, and keeps doubt
    where all rows agree.

    Raises:
        ValueError: no rows, lengths that differ, or a hit outside [0, 1].
    """
    try:
        interval = win_rate(hits, clusters)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    count = len(hits) if clusters is None else len(set(clusters))
    return Figure(name, *interval, len(hits), count, _smallest(interval), note)


def difference_figure(name: str, first: Figure, second: Figure, *, note: str = "") -> Figure:
    """``first`` minus ``second``, two figures of *different* rows (of the same rows: take differences row by row).

    Each limit is recovered from the two intervals: d − √((m₁ − l₁)² + (u₂ − m₂)²) and d + √((u₁ − m₁)² + (m₂ − l₂)²)
    (Newcombe 1998, method 10; Zou and Donner 2008).
    """
    difference = first.mean - second.mean
    low = difference - math.hypot(first.mean - first.low, second.high - second.mean)
    high = difference + math.hypot(first.high - first.mean, second.mean - second.low)
    interval = Interval(difference, low, high)
    counts = (first.n + second.n, first.clusters + second.clusters)
    return Figure(name, *interval, *counts, _smallest(interval), note)


def renamed(figure: Figure, name: str, note: str | None = None) -> Figure:
    """The same figure under another name, with another note if one is given."""
    return replace(figure, name=name, note=figure.note if note is None else note)


def _cut(value: float, bounds: tuple[float, float]) -> float:
    return value if math.isnan(value) else min(bounds[1], max(bounds[0], value))


def _smallest(interval: Interval) -> float:
    """With the SE that the interval's width betrays: it is not 0 where all rows agree, and larger for few clusters."""
    return smallest_difference((interval.high - interval.low) / (2 * Z95))
