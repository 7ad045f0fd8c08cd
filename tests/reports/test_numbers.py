"""Numbers and axes: worked values, and properties that every axis must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.reports.numbers import alike, duration, percent, smoothed, span, thinned, tick_words, ticks, tidy

FLOATS = st.floats(-1e12, 1e12, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0"), (48.0, "48"), (0.12345, "0.123"), (12.345, "12.3"), (-0.5, "−0.500"), (1234.56, "1,235"),
     (2e-5, "2e−5"), (2.54e-7, "2.54e−7"), (3e9, "3e9"), (math.nan, "not a number"), (-math.inf, "−∞")],
)  # fmt: skip
def test_a_number_has_three_digits_and_a_true_minus(value: float, words: str) -> None:
    assert tidy(value) == words


def test_a_mean_and_its_interval_have_the_same_decimals() -> None:
    assert alike([0.54, 0.1983, 0.8812]) == ["0.54", "0.20", "0.88"]
    assert alike([1200.0, 1100.0, 1310.0]) == ["1,200", "1,100", "1,310"]
    assert alike([5.0, 5.0, 5.0]) == ["5.0", "5.0", "5.0"]


def test_shares_and_times() -> None:
    assert [percent(v) for v in (0.5, 0.0312, 1.0, 0.996)] == ["50\u202f%", "3.1\u202f%", "100\u202f%", "99.6\u202f%"]
    assert [duration(v) for v in (3.21, 59.4, 61, 3725)] == ["3.2 s", "59 s", "1 min 01 s", "1 h 02 min"]


def test_ticks_are_round() -> None:
    assert ticks(0, 1, 6) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0, 24, 7) == pytest.approx([0, 5, 10, 15, 20])
    assert tick_words(ticks(-0.55, 0.22, 5)) == ["−0.4", "−0.2", "0.0", "0.2"]
    assert tick_words([0.0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]


@given(FLOATS, st.floats(1e-6, 1e12), st.integers(2, 10))
def test_ticks_lie_within_are_few_and_can_be_told_apart(low: float, width: float, most: int) -> None:
    high = low + width
    if high - low < 1e-6 * max(abs(low), 1e-12):
        return
    found = ticks(low, high, most)
    slack = 1e-6 * (high - low)
    assert 1 <= len(found) <= most or most < 3
    assert all(low - slack <= t <= high + slack for t in found)
    if max(map(abs, found), default=0) < 1e6 and len(found) > 1 and found[1] - found[0] > 1e-3:
        assert len(set(tick_words(found))) == len(found)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20))
def test_an_axis_is_never_empty(values: list[float]) -> None:
    values = [v for v in values if not math.isfinite(v) or abs(v) < 1e300]
    low, high = span(values)
    assert math.isfinite(low) and math.isfinite(high) and low < high
    assert all(low <= v <= high for v in values if math.isfinite(v))


def test_thinning_keeps_both_ends_and_every_spike() -> None:
    values = [0.0] * 10_000
    values[7777], values[1234], values[5000] = 9.0, -9.0, math.nan
    steps, kept = thinned(list(range(10_000)), values, 400)
    assert len(steps) <= 400 and steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 9999)
    assert 9.0 in kept and -9.0 in kept
    assert thinned([1, 2], [3, 4], 400) == ([1, 2], [3, 4])


@given(st.lists(st.one_of(FLOATS, st.just(math.nan)), min_size=1, max_size=40), st.sampled_from([3, 5, 9]))
def test_the_running_mean_is_the_mean_of_its_neighbours(values: list[float], window: int) -> None:
    half = window // 2
    for i, got in enumerate(smoothed(values, window)):
        near = [v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
        scale = max((abs(v) for v in values if math.isfinite(v)), default=1)
        assert (math.isnan(got) and not near) or got == pytest.approx(float(np.mean(near)), abs=1e-9 * max(scale, 1))
