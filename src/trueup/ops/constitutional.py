"""From verdicts under several principles to one preference: log-odds pooled by weight, levels of priority, clamping.

A verdict p is the probability that the first of two answers is the better one; its lean is 2p − 1, in [−1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
EDGE = 0.01  # verdicts nearer to 0 or 1 than this count as this near: no single judge outvotes all others for ever
DIGITS = 12  # decimals of a pooled preference: equal verdicts either way give 0.5, whatever the order of summation


def pooled(p: Sequence[float | int], weight: Sequence[float | int]) -> float:
    """Verdicts of one level as one: P = σ(Σ w_i logit p_i / Σ w_i).

    The logarithmic opinion pool (Genest and Zidek 1986, Statistical Science 1(1), section 3): the weighted mean of the
    log-odds, so that more principles do not make a label surer than they are. A single verdict stays what it is.

    Args:
        p: in [0, 1], ``[k]``; taken as at least :data:`EDGE` away from 0 and 1 where there are several.
        weight: above 0, ``[k]``.

    Raises:
        ValueError: no verdict, one outside [0, 1], a weight not above 0, or lengths that differ.
    """
    if len(p) != len(weight) or len(p) == 0:
        raise ValueError(f"pooled: {len(p)} verdicts and {len(weight)} weights")
    if not all(0 <= v <= 1 for v in p) or not all(0 < w < math.inf for w in weight):
        raise ValueError(f"pooled: verdicts {list(p)} with weights {list(weight)}; in [0, 1], and above 0")
    if len(p) == 1:
        return float(p[0])
    odds = [w * _logit(min(max(v, EDGE), 1 - EDGE)) for v, w in zip(p, weight, strict=True)]
    return round(1 / (1 + math.exp(-math.fsum(odds) / math.fsum(weight))), DIGITS)


def _logit(p: float | int) -> float:
    return math.log(p) - math.log1p(-p)


def clear(p: float | int, margin: float | int) -> bool:
    """Whether a verdict is clear: |2p − 1| > margin, to 12 decimals."""
    return round(abs(2 * p - 1), DIGITS) > margin


def first_clear(levels: Sequence[float | int | None], margin: float | int) -> int | None:
    """Which level decides: the first that is clear; without one the last that has a verdict at all.

    Args:
        levels: pooled preference of each level, the highest first; None: no verdict.
        margin: of :func:`clear`.

    Returns:
        Its number, or None if no level has a verdict.
    """
    judged = [i for i, p in enumerate(levels) if p is not None]
    sure = (i for i, p in enumerate(levels) if p is not None and clear(p, margin))
    return next(sure, judged[-1] if judged else None)


def clamped(p: float | int, low: float | int = 0.4, high: float | int = 0.6) -> float:
    """Moves p into [low, high] (Bai et al. 2022, arXiv 2212.08073, section 4.1: 40 to 60 % with chain of thought)."""
    return float(min(max(p, low), high))


class Disagreement(NamedTuple):
    """How two principles differ on the pairs that both judged.

    Attributes:
        pairs: how many.
        opposite: share on which they prefer different answers.
        disagree: share on which they do so and both are clear.
        phi: correlation of their preferences as yes or no; nan where one always prefers the same answer. Pairs that
            one of them ties are left out.
        gap: mean of |p_i − p_j|.
        clashing: the rows on which they disagree, those furthest apart first.
    """

    pairs: int
    opposite: float
    disagree: float
    phi: float
    gap: float
    clashing: tuple[int, ...]


def disagreement(one: Floats, other: Floats, *, margin: float | int = 0.2) -> Disagreement:
    """Of two principles' verdicts on the same pairs, ``[n]`` each; nan: not judged.

    Disagree as in :func:`~.watching.conflict_share`: different answers preferred, both leans beyond the margin.
    φ = (n11 n00 − n10 n01) / √(n1. n0. n.1 n.0) over the counts of first answer preferred or not (Pearson 1900).

    Returns:
        All shares nan if they judged no pair both.

    Raises:
        ValueError: lengths that differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"disagreement: {one.shape} verdicts against {other.shape}")
    rows = np.flatnonzero(np.isfinite(one) & np.isfinite(other))
    if len(rows) == 0:
        return Disagreement(0, math.nan, math.nan, math.nan, math.nan, ())
    a, b = np.round(2 * one[rows] - 1, DIGITS), np.round(2 * other[rows] - 1, DIGITS)
    opposite = a * b < 0
    clash = opposite & (np.minimum(np.abs(a), np.abs(b)) > margin)
    far = np.argsort(-np.abs(a - b), kind="stable")
    return Disagreement(
        pairs=len(rows),
        opposite=float(opposite.mean()),
        disagree=float(clash.mean()),
        phi=_phi(a, b),
        gap=float(np.abs(a - b).mean()) / 2,
        clashing=tuple(int(rows[i]) for i in far if clash[i]),
    )


def _phi(a: Floats, b: Floats) -> float:
    told = (a != 0) & (b != 0)
    x, y = a[told] > 0, b[told] > 0
    n11, n10 = int((x & y).sum()), int((x & ~y).sum())
    n01, n00 = int((~x & y).sum()), int((~x & ~y).sum())
    scale = math.sqrt((n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00))
    return (n11 * n00 - n10 * n01) / scale if scale else math.nan
