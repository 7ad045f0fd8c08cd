"""Calibration by hand, and the best of N with ties."""

from __future__ import annotations

import numpy as np
import pytest

from trueup.ops.calibration import best_of_n_credit, brier, calibration_error, reliability
from trueup.ops.winrate import win_rate


def test_brier_by_hand() -> None:
    """((0.8 − 1)² + (0.6 − 0)²)/2 = 0.2; a coin's is a quarter."""
    assert brier(np.array([0.8, 0.6]), np.array([1.0, 0.0])).mean == pytest.approx(0.2)
    assert brier(np.full(6, 0.5), np.array([1.0, 0, 1, 0, 1, 1])).mean == 0.25
    clustered = brier(np.array([0.8, 0.8, 0.6, 0.6]), np.array([1.0, 1, 0, 0]), clusters=["a", "a", "b", "b"])
    assert clustered == pytest.approx(brier(np.array([0.8, 0.6]), np.array([1.0, 0.0])))


def test_a_reliability_table_by_hand() -> None:
    p = np.array([0.9, 0.1, 0.2, 0.8])
    y = np.array([1.0, 0.0, 1.0, 1.0])
    low, high = reliability(p, y, bins=2)
    assert (low.low, low.high, low.n, low.confidence, low.accuracy.mean) == (0.1, 0.2, 2, pytest.approx(0.15), 0.5)
    assert (high.low, high.high, high.n, high.confidence, high.accuracy.mean) == (0.8, 0.9, 2, pytest.approx(0.85), 1.0)
    assert high.accuracy == win_rate(np.ones(2))
    assert calibration_error(p, y, bins=2) == pytest.approx(0.5 * 0.35 + 0.5 * 0.15)
    assert reliability(p, y, bins=2, clusters=["a", "b", "b", "a"])[0].accuracy.low != low.accuracy.low


def test_equal_probabilities_are_never_parted() -> None:
    table = reliability(np.array([0.5] * 7 + [0.9] * 3), np.array([1.0] * 10), bins=5)
    assert [b.n for b in table] == [7, 3]
    assert len(reliability(np.full(9, 0.3), np.zeros(9))) == 1


def test_the_error_is_that_of_the_table_and_small_when_calibrated() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(5000)
    y = (rng.random(5000) < p).astype(float)
    table = reliability(p, y)
    wanted = sum(b.n * abs(b.accuracy.mean - b.confidence) for b in table) / 5000
    assert calibration_error(p, y) == pytest.approx(wanted)
    assert calibration_error(p, y) < 0.4 * (10 / 5000) ** 0.5 * 1.5
    assert calibration_error(p**3, y) > 0.15


def test_best_of_n_by_hand() -> None:
    scores = np.array([[1.0, 3, 2], [2.0, 2, 1], [0.0, 0, 0]])
    assert best_of_n_credit(scores, np.array([1, 0, 2])).tolist() == pytest.approx([1.0, 0.5, 1 / 3])
    assert best_of_n_credit(scores, np.array([0, 2, 0])).tolist() == pytest.approx([0.0, 0.0, 1 / 3])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: brier(np.array([]), np.array([])), "one outcome a probability"),
        (lambda: brier(np.array([0.5]), np.array([0.5, 1])), "got 1 probabilities and 2 outcomes"),
        (lambda: brier(np.array([0.5, 1.5]), np.array([0.0, 1])), r"probability of row 1 is 1.5"),
        (lambda: calibration_error(np.array([0.5]), np.array([-1.0])), "outcome of row 0 is -1.0"),
        (lambda: reliability(np.array([0.5]), np.array([1.0]), bins=0), "at least one bin"),
        (lambda: reliability(np.array([0.5]), np.array([1.0]), clusters=["a", "b"]), "1 rows need 1 cluster names"),
        (lambda: best_of_n_credit(np.ones(3), np.array([0])), "got shapes"),
        (lambda: best_of_n_credit(np.ones((1, 2)), np.array([0.0])), "whole numbers"),
        (lambda: best_of_n_credit(np.array([[1.0, np.nan]]), np.array([0])), "scores of row 0 are not all finite"),
        (lambda: best_of_n_credit(np.ones((1, 2)), np.array([2])), r"outside 0\.\.1"),
    ],
)
def test_bad_input(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]
