"""Are probabilities what they say: Brier score, calibration error, reliability table; and picking the best of N."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trueup.ops.stats import Interval
from trueup.ops.winrate import win_rate


@dataclass(frozen=True, slots=True)
class Bin:
    """One row of a reliability table.

    Attributes:
        low: smallest probability in it.
        high: largest.
        n: rows.
        confidence: mean probability.
        accuracy: share of rows that came true, with its interval.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: Interval


def _checked(probabilities: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, y = np.asarray(probabilities, dtype=float), np.asarray(outcomes, dtype=float)
    if len(p) != len(y) or len(p) == 0:
        raise ValueError(f"one outcome a probability is needed, got {len(p)} probabilities and {len(y)} outcomes")
    for name, x in (("probability", p), ("outcome", y)):
        wrong = np.flatnonzero(~((x >= 0) & (x <= 1)))
        if len(wrong):
            raise ValueError(f"{name} of row {int(wrong[0])} is {x[int(wrong[0])]}, not in [0, 1]")
    return p, y


def brier(probabilities: np.ndarray, outcomes: np.ndarray, *, clusters: Sequence[str] | None = None) -> Interval:
    """Mean of (p_i − y_i)² (Brier 1950); 0 is perfect, always saying ½ gives ¼.

    Squares lie in [0, 1] and most near 0; the interval of :func:`~.winrate.win_rate` is lopsided as they are, where a
    symmetric one held the truth in 90 % of simulations at n = 50.

    Args:
        probabilities: ``[n]`` in [0, 1].
        outcomes: ``[n]``, 1 came true, 0 did not; fractions are soft labels.
        clusters: name of each row's prompt; None: every row its own.

    Raises:
        ValueError: no rows, lengths that differ, a value outside [0, 1].
    """
    p, y = _checked(probabilities, outcomes)
    return win_rate((p - y) ** 2, clusters)


def _equal_mass(p: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each row ``[n]``: rows are ranked and cut into ``bins`` equal parts, equal probabilities never parted."""
    if bins < 1:
        raise ValueError(f"at least one bin is needed, got {bins}")
    _, which, counts = np.unique(p, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # mid-rank of each distinct probability
    return (middle * bins / len(p)).astype(int)[which]


def reliability(
    probabilities: np.ndarray, outcomes: np.ndarray, *, bins: int = 10, clusters: Sequence[str] | None = None
) -> tuple[Bin, ...]:
    """Reliability table in bins of (nearly) equal numbers of rows, by rising probability.

    Args:
        probabilities: ``[n]`` in [0, 1].
        outcomes: ``[n]`` in [0, 1].
        bins: wanted; fewer come out where many rows share a probability.
        clusters: name of each row's prompt; None: every row its own.

    Raises:
        ValueError: no rows, lengths that differ, a value outside [0, 1], fewer than one bin.
    """
    p, y = _checked(probabilities, outcomes)
    if clusters is not None and len(clusters) != len(p):
        raise ValueError(f"{len(p)} rows need {len(p)} cluster names, got {len(clusters)}")
    part = _equal_mass(p, bins)
    table: list[Bin] = []
    for b in np.unique(part):
        rows = np.flatnonzero(part == b)
        names = None if clusters is None else [clusters[int(r)] for r in rows]
        inside = p[rows]
        table.append(
            Bin(float(inside.min()), float(inside.max()), len(rows), float(inside.mean()), win_rate(y[rows], names))
        )
    return tuple(table)


def calibration_error(probabilities: np.ndarray, outcomes: np.ndarray, *, bins: int = 10) -> float:
    """Expected calibration error, Σ_b n_b/n · |mean outcome − mean probability| (Naeini et al. 2015), equal-mass bins.

    Even a perfectly calibrated judge gets more than 0 from a finite sample (up to 0.4·√(bins/n)): compare at equal n.

    Args:
        probabilities: ``[n]`` in [0, 1].
        outcomes: ``[n]`` in [0, 1].
        bins: as in :func:`reliability`.

    Raises:
        ValueError: what :func:`reliability` refuses.
    """
    p, y = _checked(probabilities, outcomes)
    return float(np.abs(np.bincount(_equal_mass(p, bins), y - p)).sum() / len(p))


def best_of_n_credit(scores: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Credit for picking the right one of N by its score: 1/#max if it is among the highest, else 0, ``[n]``.

    Ties split the credit (RewardBench 2, arXiv 2506.01937), so a constant scorer gets 1/N and not 1.
    ``winrate.win_rate(credit, clusters)`` gives the accuracy and its interval.

    Args:
        scores: ``[n, N]``, finite.
        best: column of the right one, ``[n]``.

    Raises:
        ValueError: shapes that do not fit, a score that is not finite, a column that is not there.
    """
    scores, best = np.asarray(scores, dtype=float), np.asarray(best)
    if scores.ndim != 2 or best.shape != scores.shape[:1] or not np.issubdtype(best.dtype, np.integer):
        raise ValueError(f"scores [n, N] need whole numbers best [n], got shapes {scores.shape} and {best.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores of row {int(np.argwhere(~np.isfinite(scores))[0, 0])} are not all finite")
    if not ((best >= 0) & (best < scores.shape[1])).all():
        raise ValueError(f"best names a column outside 0..{scores.shape[1] - 1}")
    top = scores == scores.max(axis=1, keepdims=True)
    return top[np.arange(len(best)), best] / top.sum(axis=1)
