"""Pooled verdicts, levels of priority and disagreement, against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.ops.constitutional import EDGE, clamped, clear, disagreement, first_clear, pooled
from trueup.ops.watching import conflict_share

P = st.floats(0, 1)


@pytest.mark.parametrize(
    ("p", "weight", "expected"),
    [
        ([0.9, 0.2], [1, 1], 0.6),  # odds 9 and 1/4: √(9/4) = 3/2
        ([0.8, 0.5], [1, 1], 2 / 3),  # odds 4 and 1: 2
        ([0.9, 0.1], [1, 3], 0.25),  # odds 9^(1/4) · 9^(−3/4) = 1/3
        ([0.9, 0.1], [2, 2], 0.5),
        ([1.0, 0.5], [1, 1], math.sqrt(99) / (1 + math.sqrt(99))),  # 1 counts as 0.99
        ([0.0, 1.0, 0.5], [1, 1, 5], 0.5),
        ([0.7], [3], 0.7),
        ([1.0], [3], 1.0),  # a single verdict stays what it is
    ],
)
def test_pooled_by_hand(p: list[float], weight: list[float], expected: float) -> None:
    assert pooled(p, weight) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(P, st.floats(0.01, 100)), min_size=1, max_size=6))
def test_pooled_is_symmetric_and_between_its_verdicts(rows: list[tuple[float, float]]) -> None:
    p, w = [r[0] for r in rows], [r[1] for r in rows]
    one = pooled(p, w)
    assert pooled([1 - v for v in p], w) == pytest.approx(1 - one, abs=1e-9)
    assert pooled(p, [7 * v for v in w]) == pytest.approx(one, abs=1e-9)
    assert min(p) - EDGE - 1e-9 <= one <= max(p) + EDGE + 1e-9


@given(st.lists(P, min_size=1, max_size=5))
def test_opposite_verdicts_give_exactly_one_half_in_any_order(p: list[float]) -> None:
    both = [*p, *(1 - v for v in p)]
    assert pooled(both, [1.0] * len(both)) == pooled(both[::-1], [1.0] * len(both)) == 0.5


@pytest.mark.parametrize(
    ("p", "weight"), [([], []), ([0.5], []), ([1.1], [1]), ([math.nan], [1]), ([0.5], [0]), ([0.5], [math.inf])]
)
def test_pooled_refuses(p: list[float], weight: list[float]) -> None:
    with pytest.raises(ValueError, match="pooled"):
        pooled(p, weight)


def test_clear_means_beyond_the_margin_and_not_at_it() -> None:
    assert not clear(0.6, 0.2)  # 2 · 0.6 − 1 is 0.19999999999999996 or 0.2, and neither is clear
    assert not clear(0.4, 0.2)
    assert clear(0.6001, 0.2) and clear(0.3999, 0.2)
    assert not clear(0.5, 0.0) and clear(0.5001, 0.0)


def test_the_first_clear_level_decides_else_the_last_with_a_verdict() -> None:
    assert first_clear([0.55, 0.3, 0.9], 0.2) == 1
    assert first_clear([None, 0.55, 0.9], 0.2) == 2
    assert first_clear([0.55, 0.45, None], 0.2) == 1
    assert first_clear([0.9, 0.0, 0.0], 0.2) == 0
    assert first_clear([None, None], 0.2) is None
    assert first_clear([], 0.2) is None


def test_clamped() -> None:
    assert [clamped(p) for p in (0.0, 0.39, 0.5, 0.61, 1.0)] == [0.4, 0.4, 0.5, 0.6, 0.6]
    assert clamped(0.9, 0.2, 0.8) == 0.8


def test_disagreement_by_hand() -> None:
    nan = math.nan
    #                    clash    near   same    same     clash, far  one ties  not both
    one = np.array([0.9, 0.55, 0.8, 0.3, 1.0, 0.5, nan, 0.2])
    other = np.array([0.2, 0.1, 0.7, 0.4, 0.0, 0.9, 0.9, nan])
    found = disagreement(one, other)
    assert found.pairs == 6
    assert found.opposite == pytest.approx(3 / 6)  # rows 0, 1, 4
    assert found.disagree == pytest.approx(2 / 6)  # row 1 is unclear
    assert found.clashing == (4, 0)  # the furthest apart first
    assert found.gap == pytest.approx((0.7 + 0.45 + 0.1 + 0.1 + 1.0 + 0.4) / 6)
    # without the tie: n11 = 1 (row 2), n10 = 3 (0, 1, 4), n01 = 0, n00 = 1 (3)
    assert found.phi == pytest.approx((1 * 1 - 3 * 0) / math.sqrt(4 * 1 * 1 * 4))
    assert disagreement(other, one).phi == pytest.approx(found.phi)
    assert disagreement(one, other, margin=0.05).disagree == pytest.approx(3 / 6)


def test_phi_is_the_correlation_of_the_preferences() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.uniform(size=200), rng.uniform(size=200)
    b = np.where(rng.uniform(size=200) < 0.6, a, b)
    assert disagreement(a, b).phi == pytest.approx(np.corrcoef(a > 0.5, b > 0.5)[0, 1])
    assert disagreement(a, 1 - a).phi == pytest.approx(-1)
    assert math.isnan(disagreement(a, np.full(200, 0.9)).phi)


def test_the_share_is_that_of_the_monitor() -> None:
    table = np.random.default_rng(5).uniform(size=(2, 300))
    assert disagreement(table[0], table[1]).disagree == pytest.approx(conflict_share(table))


def test_nothing_judged_by_both() -> None:
    found = disagreement(np.array([0.5, math.nan]), np.array([math.nan, 0.5]))
    assert found.pairs == 0 and found.clashing == ()
    assert all(math.isnan(v) for v in (found.disagree, found.opposite, found.phi, found.gap))
    with pytest.raises(ValueError, match="verdicts against"):
        disagreement(np.zeros(2), np.zeros(3))
