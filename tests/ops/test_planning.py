"""What a sample can show: closed forms, simulated power, published corrections, and variance by its parts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trueup.ops.planning import (
    VarianceSplit,
    holm,
    mean_error,
    prompts_needed,
    smallest_difference,
    variance_split,
)


def test_standard_error_by_hand() -> None:
    """1, 2, 3, 4: s² = 5/3, SE = √(s²/4); in clusters {1, 2}, {3, 4}: 2/1 · (2² + 2²)/16 = 1."""
    values = np.array([1.0, 2, 3, 4])
    assert mean_error(values) == pytest.approx(math.sqrt(5 / 3 / 4))
    assert mean_error(values, ["a", "a", "b", "b"]) == pytest.approx(1.0)
    assert math.isnan(mean_error(values, ["a"] * 4))
    with pytest.raises(ValueError, match="row 1 is not finite"):
        mean_error(np.array([1.0, np.inf]))


def test_smallest_difference_has_the_power_it_promises() -> None:
    assert smallest_difference(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert smallest_difference(3.0, other=4.0) == pytest.approx(5 * smallest_difference(1.0))
    assert smallest_difference(1.0, comparisons=10) > smallest_difference(1.0, comparisons=2) > smallest_difference(1.0)
    assert math.isnan(smallest_difference(math.nan))
    drawn = np.random.default_rng(0).normal(smallest_difference(1.0), 1.0, 40_000)
    assert (np.abs(drawn) > 1.959964).mean() == pytest.approx(0.8, abs=0.01)
    for wrong in ({"comparisons": 0}, {"level": 1.0}, {"power": 1.0}, {"power": 0.02}):
        with pytest.raises(ValueError, match="comparisons >= 1 and 0 < level/2 < power < 1"):
            smallest_difference(1.0, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not negative"):
        smallest_difference(-1.0)


def test_how_many_prompts_it_takes() -> None:
    """Half the difference takes four times the prompts; a rate of 1/2 shows 10 points with 196.2 rows (z² p q / d²)."""
    error = math.sqrt(0.25 / 100)
    assert prompts_needed(0.1, error, 100) == math.ceil((1.959964 + 0.841621) ** 2 * 0.25 / 0.01) == 197
    assert prompts_needed(0.05, error, 100) == math.ceil(4 * (1.959964 + 0.841621) ** 2 * 0.25 / 0.01)
    assert prompts_needed(5.0, error, 100) == 2
    for difference, e, prompts in ((0.0, 0.1, 9), (0.1, math.nan, 9), (0.1, 0.1, 0)):
        with pytest.raises(ValueError, match="positive difference, prompts and a known error"):
            prompts_needed(difference, e, prompts)


def test_holm_by_hand() -> None:
    """0.01, 0.04, 0.03, 0.005 (Holm 1979): 4·0.005, 3·0.01, 2·0.03, and 0.04 may not pass below 0.06."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="p-value 1 is"):
            holm(np.array([0.5, bad]))


def test_holm_makes_few_false_findings() -> None:
    p = np.random.default_rng(0).random((4000, 6))
    assert (np.array([holm(row).min() for row in p]) <= 0.05).mean() == pytest.approx(0.05, abs=0.012)


def test_variance_by_its_parts_by_hand() -> None:
    """Balanced: MS_p = 8, MS_s = 2, MS_j = 0.5 over 2 prompts, 2 answers each, 2 judgements each."""
    x = np.array([1.0, 2, 3, 4, 5, 6, 9, 10])
    prompts, samples = list("aaaabbbb"), list("xxyyxxyy")
    got = variance_split(x, prompts, samples)
    judge = np.mean([0.5] * 4)
    middle = (2 * (1.5 - 2.5) ** 2 * 2 + 2 * (5.5 - 7.5) ** 2 * 2) / 2
    between = 4 * (2.5 - 5) ** 2 * 2 / 1
    assert (got.judge, got.samples) == pytest.approx((judge, (middle - judge) / 2))
    assert (got.prompts, got.mean) == pytest.approx(((between - middle) / 4, 5.0))
    assert got.error(2, 2, 2) ** 2 == pytest.approx(between / 8)  # the clustered variance of the mean itself


def test_variance_parts_are_found_again() -> None:
    rng = np.random.default_rng(1)
    p, s, values = [], [], []
    for i in range(2000):
        a = rng.normal(0, 2)
        for k in range(rng.integers(1, 4)):
            b = rng.normal(0, 1)
            for _ in range(rng.integers(1, 3)):
                p.append(str(i))
                s.append(str(k))
                values.append(a + b + rng.normal(0, 0.5))
    got = variance_split(np.array(values), p, s)
    assert (got.prompts, got.samples, got.judge) == pytest.approx((4, 1, 0.25), rel=0.12)


def test_a_source_that_was_not_repeated_stands_in_the_one_above() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=100)
    alone = variance_split(values, [str(i) for i in range(100)])
    assert math.isnan(alone.samples) and math.isnan(alone.judge)
    assert alone.prompts == pytest.approx(values.var(ddof=1))
    assert alone.error(100) == pytest.approx(values.std(ddof=1) / 10)
    assert math.isnan(alone.error(50, 2)) and math.isnan(alone.error(50, 1, 2))
    twice = variance_split(values, [str(i // 2) for i in range(100)])
    assert math.isnan(twice.judge) and not math.isnan(twice.samples)
    assert twice.error(10, 4) > 0
    assert VarianceSplit(-1.0, 0.1, math.nan, 0.0).error(10) == 0.0  # a negative estimate is no negative error


def test_bad_splits() -> None:
    with pytest.raises(ValueError, match="at least two prompts"):
        variance_split(np.array([1.0, 2.0]), ["a", "a"])
    with pytest.raises(ValueError, match="row 0 is not finite"):
        variance_split(np.array([np.nan, 2.0]), ["a", "b"])
    with pytest.raises(ValueError, match="counts are 1 or more"):
        VarianceSplit(1.0, 1.0, 1.0, 0.0).error(0)
