"""Win rates: by hand, against scipy's optimiser and statsmodels-free formulas, and where nothing can be known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import t as student_t

from trueup.ops.stats import wilson
from trueup.ops.winrate import (
    RIDGE,
    cluster_draws,
    cluster_index,
    join_orders,
    length_controlled,
    score_interval,
    student,
    win_rate,
)


def test_clusters_are_numbered_without_gaps() -> None:
    index, count = cluster_index(4, ["b", "a", "b", "c"])
    assert (index.tolist(), count) == ([1, 0, 1, 2], 3)
    assert cluster_index(3, None)[0].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="2 rows need 2 cluster names, got 1"):
        cluster_index(2, ["a"])
    with pytest.raises(ValueError, match="at least one row"):
        cluster_index(0, [])


def test_draws_take_as_many_clusters_as_there_are() -> None:
    parts = list(cluster_draws(7, 250, 0))
    assert [len(p) for p in parts] == [100, 100, 50]
    whole = np.concatenate(parts)
    assert (whole.sum(1) == 7).all() and whole.mean() == 1.0
    assert np.array_equal(whole, np.concatenate(list(cluster_draws(7, 250, 0))))
    # each count is Binomial(7, 1/7): variance 6/7
    assert whole.var() == pytest.approx(6 / 7, rel=0.1)


def test_students_quantile() -> None:
    assert student(31) == pytest.approx(2.0422724563)  # published table, 30 degrees of freedom
    assert math.isnan(student(1))


def test_a_plain_rate_is_wilsons_with_t() -> None:
    """12 wins of 20: Wilson's formula with t(19) for z and (C − 1) in the variance."""
    got = win_rate(np.array([1.0] * 12 + [0.0] * 8))
    q, n = float(student_t.ppf(0.975, 19)), 19  # m(1 − m)/SE² = C − 1
    centre = (0.6 + q * q / (2 * n)) / (1 + q * q / n)
    half = q * math.sqrt(0.6 * 0.4 / n + q * q / (4 * n * n)) / (1 + q * q / n)
    assert got == pytest.approx((0.6, centre - half, centre + half))


def test_rows_of_one_prompt_are_one_piece_of_evidence() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.5])
    once, thrice = win_rate(values), win_rate(np.repeat(values, 3), [str(i // 3) for i in range(18)])
    assert thrice == pytest.approx(once)


def test_all_wins_are_still_in_doubt_and_one_prompt_says_nothing() -> None:
    assert score_interval(1.0, 0.0, 100, quantile=1.959963984540054).low == pytest.approx(wilson(100, 100).low)
    assert win_rate(np.ones(5)).high == 1.0 and 0 < win_rate(np.ones(5)).low < 0.6
    one = win_rate(np.array([1.0, 0.0]), ["a", "a"])
    assert one.mean == 0.5 and math.isnan(one.low) and math.isnan(one.high)
    # equal fractions have no spread either: as wide as for C rows of 0 and 1
    assert win_rate(np.full(10, 0.3)).low == pytest.approx(score_interval(0.3, math.sqrt(0.3 * 0.7 / 10), 10).low)


@pytest.mark.parametrize("bad", [[0.5, 1.2], [-0.1], [float("nan")]])
def test_a_preference_is_a_probability(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"not in \[0, 1\]; leave out rows"):
        win_rate(np.array(bad))


def test_both_orders_are_averaged_and_flips_counted() -> None:
    got = join_orders(np.array([0.9, 0.8, 0.5, 0.2]), np.array([0.7, 0.4, 0.1, 0.1]))
    assert got.preferences.tolist() == pytest.approx([0.8, 0.6, 0.3, 0.15])
    assert got.flipped.tolist() == [0, 1, 0, 0] and got.flip_rate == 0.25  # a tie in one order is no flip
    for first, second in (([], []), ([0.5], [0.5, 0.5])):
        with pytest.raises(ValueError, match="both orders must be judged"):
            join_orders(np.array(first), np.array(second))
    with pytest.raises(ValueError, match="second order: row 0"):
        join_orders(np.array([0.5]), np.array([2.0]))


def sample(n: int, seed: int = 0, theta: float = -0.5, phi: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(50, 1500, n).astype(float), rng.integers(50, 1500, n).astype(float)
    x = np.tanh((one - other) / (one - other).std(ddof=1))
    return rng.beta(*(2 * np.stack([p := 1 / (1 + np.exp(-theta - phi * x)), 1 - p]))), one, other


def test_length_control_is_what_a_general_optimiser_finds() -> None:
    p, one, other = sample(300)
    got = length_controlled(p, one, other, draws=50)
    x = np.tanh((one - other) / (one - other).std(ddof=1))

    def loss(beta: np.ndarray) -> float:
        z = beta[0] + beta[1] * x
        return float((np.logaddexp(0, z) - p * z).sum() + RIDGE / 2 * (beta @ beta))

    wanted = minimize(loss, np.zeros(2), tol=1e-10).x
    assert (got.theta, got.phi) == pytest.approx(tuple(wanted), abs=1e-4)
    assert got.win_rate.mean == pytest.approx(1 / (1 + math.exp(-wanted[0])), abs=1e-4)
    assert got.raw == win_rate(p)
    assert got.win_rate.low < got.win_rate.mean < got.win_rate.high


def test_swapping_candidate_and_baseline_gives_the_complement() -> None:
    p, one, other = sample(80, 1)
    a, b = length_controlled(p, one, other, draws=40), length_controlled(1 - p, other, one, draws=40)
    assert a.win_rate.mean + b.win_rate.mean == pytest.approx(1)
    assert a.win_rate.low + b.win_rate.high == pytest.approx(1)
    assert a.phi == pytest.approx(b.phi)


def test_equal_lengths_leave_the_raw_rate_but_for_the_ridge() -> None:
    p = sample(400, 2)[0]
    got = length_controlled(p, np.full(400, 90.0), np.full(400, 90.0), draws=20)
    assert got.phi == 0.0 and got.win_rate.mean == pytest.approx(p.mean(), abs=1e-3)


def test_one_and_the_same_difference_cannot_be_controlled_and_says_so() -> None:
    p = sample(50, 3)[0]
    got = length_controlled(p, np.full(50, 90.0), np.full(50, 30.0), draws=20)
    assert math.isnan(got.phi) and got.win_rate.mean == pytest.approx(p.mean(), abs=0.01)


def test_separable_wins_are_finite_and_in_doubt() -> None:
    gap = np.linspace(-100, 100, 30)
    got = length_controlled((gap > 0).astype(float), 200 + gap, np.full(30, 200.0), draws=60)
    assert math.isfinite(got.theta) and math.isfinite(got.phi) and got.phi > 2
    assert got.win_rate.high - got.win_rate.low > 0.1
    sure = length_controlled(np.ones(20), 200 + gap[:20], np.full(20, 200.0), draws=20)
    assert 0.8 < sure.win_rate.mean < 1 and sure.win_rate.low < 0.95


def test_prompts_are_resampled_whole() -> None:
    p, one, other = sample(60, 4)
    alone = length_controlled(p, one, other, draws=300)
    often = length_controlled(
        *(np.repeat(v, 5) for v in (p, one, other)), clusters=[str(i // 5) for i in range(300)], draws=300
    )
    assert often.win_rate.high - often.win_rate.low == pytest.approx(alone.win_rate.high - alone.win_rate.low, rel=0.2)
    single = length_controlled(p, one, other, clusters=["a"] * 60, draws=10)
    assert math.isnan(single.win_rate.low)


def test_length_control_refuses() -> None:
    p = np.array([0.5, 0.5])
    with pytest.raises(ValueError, match="needs two finite lengths"):
        length_controlled(p, np.array([1.0]), np.array([2.0]))
    with pytest.raises(ValueError, match="needs two finite lengths"):
        length_controlled(p, np.array([1.0, np.inf]), np.array([2.0, 2.0]))
    with pytest.raises(ValueError, match="at least 2 draws"):
        length_controlled(p, np.ones(2), np.ones(2), draws=1)
