"""Win rates: both orders joined, ties as halves, length control; prompts are what is sampled, so they are resampled.

Legend: ``n`` rows (one comparison each), ``C`` clusters (prompts), ``D`` bootstrap draws. A preference is the
probability that the candidate beats the baseline: 1 a win, 0 a loss, 0.5 a tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from trueup.ops.stats import Z95, Interval

RIDGE = 0.1  # weight of ½·|coefficients|²: an all-win candidate gets a finite logit, 500 rows do not feel it
CHUNK = 100  # draws held in memory at once


def cluster_index(n: int, clusters: Sequence[str] | None) -> tuple[np.ndarray, int]:
    """Number of each row's cluster ``[n]``, from 0 without gaps, and C; without clusters every row is its own.

    Raises:
        ValueError: no rows, or a cluster name too many or too few.
    """
    if n == 0:
        raise ValueError("at least one row is needed")
    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise ValueError(f"{n} rows need {n} cluster names, got {len(clusters)}")
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    return index, len(names)


def cluster_draws(count: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of ``count`` clusters is drawn, with replacement, ``[<= CHUNK, C]`` at a time (Efron 1979)."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        drawn = rng.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(float)


def student(count: int) -> float:
    """97.5 % quantile of Student's t with C − 1 degrees of freedom; nan for a single cluster."""
    return float(stats.t.ppf(0.975, count - 1)) if count > 1 else math.nan  # pyright: ignore[reportUnknownMemberType, reportArgumentType]


def score_interval(mean: float, error: float, count: int, *, quantile: float | None = None) -> Interval:
    """Wilson's interval with the sample size that the standard error betrays (Korn & Graubard 1998; Wilson 1927).

    n* = m(1 − m)/SE² rows of 0 and 1 would have had this standard error; t(C − 1) stands for the normal quantile.
    The interval stays within [0, 1] and keeps its coverage near both ends. Where all rows agree SE is 0 and shows
    nothing: n* is C then, as for rows of 0 and 1.

    Args:
        mean: m, within [0, 1].
        error: SE of m.
        count: C; a single cluster gives nan bounds.
        quantile: instead of t(C − 1).
    """
    if count == 1:
        return Interval(mean, math.nan, math.nan)
    quantile = student(count) if quantile is None else quantile
    spread = mean * (1 - mean)
    size = spread / error**2 if error > 0 and spread > 0 else float(count)
    t2 = quantile * quantile
    centre = (mean + t2 / (2 * size)) / (1 + t2 / size)
    half = quantile * math.sqrt(spread / size + t2 / (4 * size * size)) / (1 + t2 / size)
    return Interval(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)))


def _checked(preferences: np.ndarray, what: str = "preferences") -> np.ndarray:
    values = np.asarray(preferences, dtype=float)
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"{what}: row {row} is {values[row]}, not in [0, 1]; leave out rows that were not judged")
    return values


def win_rate(preferences: np.ndarray, clusters: Sequence[str] | None = None) -> Interval:
    """Mean preference; its interval takes the rows of one cluster together.

    SE² = C/(C − 1) · Σ_c (Σ_{i∈c} (p_i − m))² / n² (the cluster bootstrap's limit), within :func:`score_interval`.
    Serves any credit in [0, 1] a row: accuracy with ties as halves, flips, shared credit of best-of-N.

    Args:
        preferences: ``[n]`` in [0, 1].
        clusters: name of each row's prompt; None: every row its own.

    Raises:
        ValueError: no rows, a value outside [0, 1] (nan too), or a cluster name too many or too few.
    """
    values = _checked(preferences)
    index, count = cluster_index(len(values), clusters)
    mean = float(values.mean())
    sums = np.bincount(index, values - mean)
    error = math.sqrt(float(sums @ sums) * count / max(count - 1, 1)) / len(values)
    # rounding alone must not pass for a spread
    return score_interval(mean, error if error > 1e-12 else 0.0, count)


class Orders(NamedTuple):
    """Judgements of both orders, joined: preferences ``[n]``, which rows flipped ``[n]``, and their share."""

    preferences: np.ndarray
    flipped: np.ndarray
    flip_rate: float


def join_orders(first: np.ndarray, second: np.ndarray) -> Orders:
    """Averages the probabilities of both orders (RLAIF, arXiv 2309.00267, section 2.1.1).

    A row flips if the orders name different winners; a tie in either order is no flip. ``win_rate(flipped, clusters)``
    gives the flip rate its interval.

    Args:
        first: P(candidate wins) with the candidate shown first, ``[n]``.
        second: P(candidate wins), again of the candidate, with the candidate shown second, ``[n]``.

    Raises:
        ValueError: no rows, lengths that differ, a value outside [0, 1].
    """
    one, two = _checked(first, "first order"), _checked(second, "second order")
    if len(one) != len(two) or len(one) == 0:
        raise ValueError(f"both orders must be judged for every row, got {len(one)} and {len(two)}")
    flipped = ((one - 0.5) * (two - 0.5) < 0).astype(float)
    return Orders((one + two) / 2, flipped, float(flipped.mean()))


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A win rate at equal lengths.

    Attributes:
        win_rate: σ(θ) with its interval.
        theta: θ, logit of the win rate at equal lengths.
        phi: φ, weight of the length difference; nan where the differences of all rows are the same number (not 0),
            so that no control is possible and ``win_rate`` still holds the length's effect.
        raw: win rate as it was judged.
    """

    win_rate: Interval
    theta: float
    phi: float
    raw: Interval


def length_controlled(
    preferences: np.ndarray,
    len_candidate: np.ndarray,
    len_baseline: np.ndarray,
    *,
    clusters: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> LengthControlled:
    """Win rate if both answers had been equally long (AlpacaEval 2, arXiv 2404.04475, eq. 2, without difficulty).

    logit p_i = θ + φ · tanh((len_candidate,i − len_baseline,i)/sd)

    fitted to the soft preferences by cross-entropy + ½·RIDGE·(θ² + φ²). The authors cross-validate the weight of an
    L1 penalty (0.05-0.36 at n = 577, which moves a win rate by 0.5 points at most); a fixed weak ridge is
    deterministic, is smooth enough for Newton's method in every resample, and keeps separable data finite. Their
    ψ·γ term, left out, needs precomputed difficulties.
    Each draw takes whole prompts and does everything again, the scale sd too; the spread of its σ(θ) is the standard
    error, but never below the one that the model expects (separable data look alike in every draw). The interval is
    that of :func:`score_interval`.

    Args:
        preferences: ``[n]`` in [0, 1].
        len_candidate: characters of the candidate's answer, ``[n]``.
        len_baseline: of the baseline's, ``[n]``.
        clusters: name of each row's prompt; None: every row its own.
        draws: bootstrap replicates, at least 2.
        seed: of the resampling.

    Raises:
        ValueError: what :func:`win_rate` refuses, lengths that differ or are not finite, fewer than 2 draws.
    """
    raw = win_rate(preferences, clusters)
    values = np.asarray(preferences, dtype=float)
    gap = np.asarray(len_candidate, dtype=float) - np.asarray(len_baseline, dtype=float)
    if gap.shape != values.shape or not np.isfinite(gap).all():
        raise ValueError(f"every preference needs two finite lengths: {len(values)} preferences, {gap.size} lengths")
    if draws < 2:
        raise ValueError(f"length_controlled needs at least 2 draws, got {draws}")
    index, count = cluster_index(len(values), clusters)
    theta, phi = _fit(values, gap, np.ones((1, len(values))))[0]
    rates = np.concatenate([_sigmoid(_fit(values, gap, w[:, index])[:, 0]) for w in cluster_draws(count, draws, seed)])
    rate = 0.5 * (1 + math.tanh(float(theta) / 2))
    resampled = float(rates.std(ddof=1)) * math.sqrt(count / max(count - 1, 1))
    expected = rate * (1 - rate) * _expected_error(values, gap, float(theta), float(phi))
    error = max(resampled, expected)
    same = bool((gap == gap[0]).all()) and float(gap[0]) != 0
    bounds = score_interval(rate, error, count, quantile=Z95)  # refitting bears the spread that t stands for
    return LengthControlled(bounds, float(theta), math.nan if same else float(phi), raw)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def _expected_error(values: np.ndarray, gap: np.ndarray, theta: float, phi: float) -> float:
    """SE of θ by the sandwich A⁻¹BA⁻¹ with expected, not seen, squares: Var(y) = p(1 − p) − E[y(1 − y)]."""
    x = np.stack([np.ones_like(gap), _feature(gap, np.ones((1, len(gap))))[0]])
    p = _sigmoid(x.T @ np.array([theta, phi]))
    curve = p * (1 - p)
    bread = np.linalg.solve((x * curve) @ x.T + RIDGE * np.eye(2), np.array([1.0, 0.0])) @ x
    return math.sqrt(max(0.0, float(bread**2 @ (curve - values * (1 - values)))))


def _feature(gap: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """tanh(gap/sd) ``[D, n]``, sd being each draw's own (n − 1); 0 where the gaps of a draw do not differ."""
    total = weight.sum(1, keepdims=True)
    centre = weight @ gap[:, None] / total
    squares = (weight * (gap - centre) ** 2).sum(1, keepdims=True)
    scale = np.sqrt(squares / np.maximum(total - 1, 1))
    known = scale > 1e-9 * (np.abs(gap).max() + 1e-300)
    return np.tanh(np.divide(gap, scale, out=np.zeros_like(weight), where=known))


def _fit(values: np.ndarray, gap: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """θ and φ of every draw, ``[D, 2]``, by damped Newton steps.

    Steps s shrink by log(1 + R|s|)/(R|s|), R = √2 ≥ |(1, tanh)|, which makes them converge from anywhere (logistic
    losses are generalised self-concordant: Bach 2010; Sun & Tran-Dinh 2019, theorem 2).
    """
    x = _feature(gap, weight)
    theta, phi = np.zeros(len(weight)), np.zeros(len(weight))
    largest = math.inf
    while largest > 1e-8:
        p = _sigmoid(theta[:, None] + phi[:, None] * x)
        residual = weight * (values - p)
        g0 = residual.sum(1) - RIDGE * theta
        g1 = (residual * x).sum(1) - RIDGE * phi
        curve = weight * p * (1 - p)
        h00 = curve.sum(1) + RIDGE
        curve *= x
        h01, h11 = curve.sum(1), (curve * x).sum(1) + RIDGE
        determinant = h00 * h11 - h01 * h01
        s0, s1 = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        length = math.sqrt(2) * np.hypot(s0, s1) + 1e-300
        shrink = np.log1p(length) / length
        theta, phi, largest = theta + shrink * s0, phi + shrink * s1, float(length.max())
    return np.stack([theta, phi], axis=1)
