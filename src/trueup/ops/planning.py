"""How large a difference a sample can show, how many prompts it takes, and where the noise comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from trueup.ops.winrate import cluster_index


def _normal_quantile(p: float) -> float:
    return float(stats.norm.ppf(p))  # pyright: ignore[reportUnknownMemberType, reportArgumentType]


def mean_error(values: np.ndarray, clusters: Sequence[str] | None = None) -> float:
    """Standard error of a mean of clustered rows (Liang & Zeger 1986; Miller 2024, arXiv 2411.00640, section 2.2).

    SE² = C/(C − 1) · Σ_c (Σ_{i∈c} (x_i − m))² / n². For a paired comparison give the differences of the rows.

    Args:
        values: ``[n]``.
        clusters: name of each row's prompt; None: every row its own.

    Returns:
        SE, in the unit of the values; nan for a single cluster, which tells nothing of the spread.

    Raises:
        ValueError: no rows, a value that is not finite, or a cluster name too many or too few.
    """
    values = np.asarray(values, dtype=float)
    index, count = cluster_index(len(values), clusters)
    if not np.isfinite(values).all():
        raise ValueError(f"mean_error: row {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite")
    if count == 1:
        return math.nan
    sums = np.bincount(index, values - values.mean())
    return math.sqrt(float(sums @ sums) * count / (count - 1)) / len(values)


def smallest_difference(
    error: float, *, other: float = 0.0, comparisons: int = 1, power: float = 0.8, level: float = 0.05
) -> float:
    """The smallest true difference that a two-sided test at ``level`` would show with ``power``.

    δ = (z_{1 − α/(2m)} + z_{power}) · √(SE² + SE_other²)  (Miller 2024, arXiv 2411.00640, eq. 9; Bonferroni for m)

    * a rate against a fixed value (a win rate against 0.5): ``error`` is the rate's SE;
    * the same prompts, paired: ``error`` is the SE of the mean difference (:func:`mean_error` of the differences);
    * two independent samples: ``error`` and ``other`` are the SEs of the two means.

    Args:
        error: observed SE.
        other: SE of the second, independent mean; 0: there is none.
        comparisons: m tests made together.
        power: wanted chance of seeing the difference.
        level: α.

    Returns:
        δ in the unit of the errors; nan if an error is.

    Raises:
        ValueError: a negative error, m below 1, power or level outside (0, 1), or power not above level/2.
    """
    if error < 0 or other < 0:
        raise ValueError(f"standard errors are not negative, got {error} and {other}")
    if comparisons < 1 or not 0 < level < 1 or not level / 2 < power < 1:
        raise ValueError(
            f"smallest_difference needs comparisons >= 1 and 0 < level/2 < power < 1, "
            f"got comparisons={comparisons}, power={power}, level={level}"
        )
    return (_normal_quantile(1 - level / (2 * comparisons)) + _normal_quantile(power)) * math.hypot(error, other)


def prompts_needed(difference: float, error: float, prompts: int, *, power: float = 0.8, level: float = 0.05) -> int:
    """How many prompts would show ``difference``, if they are like the ``prompts`` that gave ``error``.

    n' = n · (δ/difference)², δ being :func:`smallest_difference` of what was seen; rounded up, 2 at least.

    Args:
        difference: to be shown, in the unit of the error.
        error: SE of the mean (or mean difference) over ``prompts``.
        prompts: clusters behind the error.
        power: as in :func:`smallest_difference`.
        level: as there.

    Raises:
        ValueError: a difference that is not positive, no prompts, an error that is nan, or what
            :func:`smallest_difference` refuses.
    """
    if not difference > 0 or prompts < 1 or math.isnan(error):
        raise ValueError(
            f"prompts_needed needs a positive difference, prompts and a known error, "
            f"got difference={difference}, prompts={prompts}, error={error}"
        )
    ratio = smallest_difference(error, power=power, level=level) / difference
    return max(2, math.ceil(prompts * ratio * ratio))


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values adjusted for having made all these tests (Holm 1979), ``[m]``, in the order given.

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) · p_(j)); a test counts at level α if p̃ ≤ α, and the chance of one false
    finding among all is then at most α, however the tests depend on each other.

    Args:
        p_values: ``[m]``; none gives none.

    Raises:
        ValueError: a p-value outside [0, 1] (nan too).
    """
    p = np.asarray(p_values, dtype=float)
    wrong = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if len(wrong):
        raise ValueError(f"holm: p-value {int(wrong[0])} is {p[int(wrong[0])]}, not in [0, 1]")
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    back = np.empty_like(adjusted)
    back[order] = adjusted
    return back


@dataclass(frozen=True, slots=True)
class VarianceSplit:
    """Variance of one row's score, by source; nan where a source was not repeated and so stands in the one above.

    Attributes:
        prompts: between prompts. Estimates of a small variance may be negative; they are given as they are.
        samples: between answers to one prompt.
        judge: between judgements of one answer.
        mean: over all rows.
    """

    prompts: float
    samples: float
    judge: float
    mean: float

    def error(self, prompts: int, samples: int = 1, judgements: int = 1) -> float:
        """SE of the mean over a balanced design.

        SE² = σ²_p/P + σ²_s/(P·S) + σ²_j/(P·S·J); nan if the design divides a source that was never told apart.

        Args:
            prompts: P.
            samples: S answers a prompt.
            judgements: J of each answer.

        Raises:
            ValueError: a count below 1.
        """
        if min(prompts, samples, judgements) < 1:
            raise ValueError(f"counts are 1 or more, got {prompts}, {samples}, {judgements}")
        if (math.isnan(self.samples) and samples > 1) or (math.isnan(self.judge) and judgements > 1):
            return math.nan
        inner = 0.0 if math.isnan(self.judge) else self.judge / judgements
        inner = (inner + (0.0 if math.isnan(self.samples) else self.samples)) / samples
        return math.sqrt(max(0.0, (self.prompts + inner) / prompts))


def variance_split(values: np.ndarray, prompts: Sequence[str], samples: Sequence[str] | None = None) -> VarianceSplit:
    """Splits the variance of scores between prompts, answers and judgements (nested analysis of variance).

    x_{psj} = μ + a_p + b_{ps} + e_{psj}. Mean squares within answers, between answers of a prompt and between prompts
    are set to their expectations, unequal counts included (Searle, Casella & McCulloch 1992, section 5.3).

    Args:
        values: a row a judgement, ``[n]``.
        prompts: each row's prompt.
        samples: each row's answer, a name within its prompt; None: every row its own answer.

    Returns:
        the parts. If no answer was judged twice ``judge`` is nan and stands in ``samples``; if no prompt has two
        answers ``samples`` is nan and stands in ``prompts`` with what it holds.

    Raises:
        ValueError: fewer than two prompts, a value that is not finite, or names too many or too few.
    """
    x = np.asarray(values, dtype=float)
    top, count = cluster_index(len(x), prompts)
    if count < 2:
        raise ValueError("variance_split needs at least two prompts")
    if not np.isfinite(x).all():
        raise ValueError(f"variance_split: row {int(np.flatnonzero(~np.isfinite(x))[0])} is not finite")
    names, answers = cluster_index(len(x), samples)
    _, answer = np.unique(top * answers + names, return_inverse=True)
    leaf = np.bincount(answer).astype(float)  # [A] judgements of each answer
    owner = np.empty(len(leaf), dtype=int)
    owner[answer] = top  # [A] prompt of each answer
    size = np.bincount(top).astype(float)  # [P] rows of each prompt
    n, grand = len(x), float(x.mean())
    leaf_mean, prompt_mean = np.bincount(answer, x) / leaf, np.bincount(top, x) / size
    within = float(((x - leaf_mean[answer]) ** 2).sum())
    middle = float(leaf @ (leaf_mean - prompt_mean[owner]) ** 2)
    between = float(size @ (prompt_mean - grand) ** 2)
    # sums that the expected squares are made of: Σ n_ps²/n_p, Σ n_ps²/N, Σ n_p²/N
    inside = float((np.bincount(owner, leaf**2) / size).sum())
    judge = within / (n - len(leaf)) if n > len(leaf) else math.nan
    noise = 0.0 if math.isnan(judge) else judge
    spare = len(leaf) - count
    sample = (middle - spare * noise) / (n - inside) if spare else math.nan
    known = 0.0 if math.isnan(sample) else sample
    left = between - (count - 1) * noise - known * (inside - float(leaf @ leaf) / n)
    return VarianceSplit(left / (n - float(size @ size) / n), sample, judge, grand)
