"""Intervals and paired tests. Rows that share a prompt are not independent: they are resampled together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

Z95 = 1.959963984540054


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float


def wilson(successes: float | int, n: int) -> Interval:
    """Wilson's score interval of a rate (Wilson 1927); half successes (ties) are allowed.

    Raises:
        ValueError: n below 1 or successes outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    rate, z2 = successes / n, Z95 * Z95
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))


def _cluster_sums(
    values: np.ndarray, clusters: Sequence[str] | None, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums and weights of each cluster, ``[C]`` each."""
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    if clusters is None:
        return values * weight, weight
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(index, values * weight), np.bincount(index, weight)


def bootstrap_mean(
    values: np.ndarray,
    *,
    clusters: Sequence[str] | None = None,
    weights: np.ndarray | None = None,
    seed: int = 0,
    draws: int = 2000,
) -> Interval:
    """Mean with a cluster-bootstrap interval, widened by Student's t for few clusters.

    The standard error is that of resampling whole clusters; the interval is mean ± t(C−1) · SE · √(C/(C−1)), which
    keeps its coverage where the percentile interval is too narrow.

    Args:
        values: ``[n]``.
        clusters: name of each row's cluster (its prompt); None: every row its own.
        weights: weight of each row; None: equal.
        seed: of the resampling.
        draws: bootstrap replicates.

    Returns:
        The interval; low = high = mean if all values are equal; NaN bounds for a single cluster.

    Raises:
        ValueError: no values, or lengths that differ.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0 or (clusters is not None and len(clusters) != len(values)):
        raise ValueError("bootstrap_mean needs at least one value and one cluster name a value")
    sums, totals = _cluster_sums(values, clusters, weights)
    mean, count = float(sums.sum() / totals.sum()), len(sums)
    if count == 1:
        return Interval(mean, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    replicates = np.empty(draws)
    for start in range(0, draws, 100):
        drawn = rng.integers(0, count, (min(100, draws - start), count))
        replicates[start : start + 100] = sums[drawn].sum(1) / totals[drawn].sum(1)
    error = float(replicates.std(ddof=1)) * math.sqrt(count / (count - 1))
    half = float(stats.t.ppf(0.975, count - 1)) * error  # pyright: ignore[reportUnknownMemberType, reportArgumentType]
    return Interval(mean, mean - half, mean + half)


class PairedTest(NamedTuple):
    """Two treatments of the same rows: mean difference with interval, and an exact sign test."""

    difference: Interval
    better: int
    worse: int
    p_value: float


def paired_test(
    after: np.ndarray, before: np.ndarray, *, clusters: Sequence[str] | None = None, seed: int = 0
) -> PairedTest:
    """Compares two measurements of the same rows.

    The sign test is exact and two-sided over clusters (over rows without clusters); equal ones say nothing. For 0/1
    values it is McNemar's exact test.

    Raises:
        ValueError: lengths that differ.
    """
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    interval = bootstrap_mean(difference, clusters=clusters, seed=seed)
    sums, _ = _cluster_sums(difference, clusters, None)
    better, worse = int((sums > 0).sum()), int((sums < 0).sum())
    p_value = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0  # pyright: ignore[reportUnknownMemberType]
    return PairedTest(interval, better, worse, p_value)
