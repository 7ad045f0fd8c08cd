"""Do judges agree: raw agreement, Cohen's kappa, Krippendorff's alpha, each with an interval over prompts.

Legend: ``n`` rows (things judged), ``m`` raters, ``K`` labels, ``C`` clusters (prompts), ``D`` bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from trueup.ops.stats import Interval
from trueup.ops.winrate import cluster_draws, cluster_index, student, win_rate

Label = str | int | float | bool
_Statistic = Callable[[np.ndarray], np.ndarray]


def _codes(labels: Sequence[Label]) -> tuple[np.ndarray, int]:
    """Number of each label ``[n]``, and K; 1, 1.0 and True are one label, as in Python."""
    known: dict[Label, int] = {}
    for row, label in enumerate(labels):
        if label != label:
            raise ValueError(f"label {row} is nan; leave out rows that were not judged")
        known.setdefault(label, len(known))
    return np.array([known[label] for label in labels], dtype=int), len(known)


def _two(first: Sequence[Label], second: Sequence[Label]) -> tuple[np.ndarray, np.ndarray, int]:
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"two raters must label the same rows, got {len(first)} and {len(second)} labels")
    codes, kinds = _codes([*first, *second])
    return codes[: len(first)], codes[len(first) :], kinds


def agreement(first: Sequence[Label], second: Sequence[Label], *, clusters: Sequence[str] | None = None) -> Interval:
    """Share of rows to which both raters give the same label, with the interval of :func:`~.winrate.win_rate`.

    Args:
        first: one label a row, ``[n]``.
        second: the other rater's, ``[n]``.
        clusters: name of each row's prompt; None: every row its own.

    Raises:
        ValueError: no rows, lengths that differ, a label that is nan.
    """
    one, two, _ = _two(first, second)
    return win_rate((one == two).astype(float), clusters)


def cohen_kappa(
    first: Sequence[Label],
    second: Sequence[Label],
    *,
    clusters: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Agreement beyond chance of two raters (Cohen 1960).

    κ = (p_o − p_e)/(1 − p_e),  p_e = Σ_k p_{k·} p_{·k}: what raters with these label frequencies reach blindly.

    Args:
        first: one label a row, ``[n]``.
        second: the other rater's, ``[n]``.
        clusters: name of each row's prompt; None: every row its own.
        draws: bootstrap replicates, at least 2.
        seed: of the resampling.

    Returns:
        κ and its interval; all nan if both raters used one and the same label throughout, where chance explains
        everything.

    Raises:
        ValueError: no rows, lengths that differ, a label that is nan, fewer than 2 draws.
    """
    one, two, kinds = _two(first, second)
    index, count = cluster_index(len(one), clusters)
    cells = np.zeros((count, kinds * kinds))
    np.add.at(cells, (index, one * kinds + two), 1.0)
    return _interval(cells, _kappa, draws, seed)


def krippendorff_alpha(
    labels: Sequence[Sequence[Label | None]],
    *,
    clusters: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Agreement beyond chance of any number of raters, who need not all have judged everything (Krippendorff 2011).

    α = 1 − D_o/D_e with nominal distance. A row with m_u >= 2 labels adds 1/(m_u − 1) to the coincidence o_{ck} for
    every ordered pair of its labels; D_o = Σ_{c≠k} o_{ck}/n, D_e = Σ_{c≠k} n_c n_k/(n(n − 1)), n_c = Σ_k o_{ck}.

    Args:
        labels: ``[n][m]``, a row a thing judged, a column a rater; None: not judged. Rows with fewer than two labels
            cannot be compared and count nowhere, as in the definition.
        clusters: name of each row's prompt; None: every row its own.
        draws: bootstrap replicates, at least 2.
        seed: of the resampling.

    Returns:
        α and its interval; all nan if every label that can be compared is the same.

    Raises:
        ValueError: no row with two labels, a label that is nan, a cluster name too many or too few, fewer than 2 draws.
    """
    index, count = cluster_index(len(labels), clusters)
    given = [[label for label in row if label is not None] for row in labels]
    codes, kinds = _codes([label for row in given for label in row])
    cells, used, start = np.zeros((count, kinds * kinds)), np.zeros(count, dtype=bool), 0
    for row, cluster in zip(given, index, strict=True):
        tally = np.bincount(codes[start : start + len(row)], minlength=kinds).astype(float)
        start += len(row)
        if len(row) >= 2:
            cells[cluster] += ((np.outer(tally, tally) - np.diag(tally)) / (len(row) - 1)).ravel()
            used[cluster] = True
    if not used.any():
        raise ValueError("krippendorff_alpha needs at least one row with two labels")
    return _interval(cells[used], _alpha, draws, seed)


def _kappa(table: np.ndarray) -> np.ndarray:
    """κ ``[D]`` of tables ``[D, K, K]``."""
    table = table / table.sum((1, 2), keepdims=True)
    expected = (table.sum(1) * table.sum(2)).sum(1)
    return _ratio(1 - np.trace(table, axis1=1, axis2=2), 1 - expected)


def _alpha(table: np.ndarray) -> np.ndarray:
    """α ``[D]`` of coincidences ``[D, K, K]``; n is their sum."""
    each = table.sum(2)
    total = each.sum(1)
    seen = total - np.trace(table, axis1=1, axis2=2)
    return _ratio(seen, (total * total - (each * each).sum(1)) / np.maximum(total - 1, 1))


def _ratio(seen: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """1 − seen/expected disagreement; nan where none is expected."""
    out = np.full_like(expected, math.nan)
    np.divide(seen, expected, out=out, where=expected > 1e-12)
    return 1 - out


def _interval(cells: np.ndarray, statistic: _Statistic, draws: int, seed: int) -> Interval:
    """Estimate over clusters ``[C, K·K]`` ± t(C − 1) · SE of the cluster bootstrap, cut at 1.

    Draws in which the statistic has no value (one label only) say that the labels are too one-sided for an interval:
    above 5 % of them it is nan. So it is where all draws give one value (raters who never differ): they show no doubt.
    """
    if draws < 2:
        raise ValueError(f"at least 2 draws are needed, got {draws}")
    count, size = len(cells), math.isqrt(cells.shape[1])
    value = float(statistic(cells.sum(0).reshape(1, size, size))[0])
    if count == 1 or math.isnan(value):
        return Interval(value, math.nan, math.nan)
    found = np.concatenate([statistic((w @ cells).reshape(-1, size, size)) for w in cluster_draws(count, draws, seed)])
    found = found[~np.isnan(found)]
    if len(found) < 0.95 * draws or float(np.ptp(found)) < 1e-12:
        return Interval(value, math.nan, math.nan)
    half = student(count) * float(found.std(ddof=1)) * math.sqrt(count / (count - 1))
    return Interval(value, value - half, min(1.0, value + half))
