"""Ratings: closed forms for two models, a general optimiser for several, ties after Davidson, and bad tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from trueup.ops.ratings import ELO_UNIT, Ratings, rate_models
from trueup.ops.stats import Interval
from trueup.ops.winrate import RIDGE

NAMES = ["a", "b", "c"]


def games(n: int, seed: int = 0) -> tuple[list[str], list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    strength = {"a": 1.0, "b": 0.0, "c": -1.0}
    one, two = rng.choice(NAMES, n), np.empty(n, dtype=object)
    for i, name in enumerate(one):
        two[i] = rng.choice([m for m in NAMES if m != name])
    gap = np.array([strength[str(x)] - strength[str(y)] for x, y in zip(one, two, strict=True)])
    return one.tolist(), two.tolist(), (rng.random(n) < 1 / (1 + np.exp(-gap))).astype(float)


def test_two_models_by_hand() -> None:
    """300 wins of 400: β_a − β_b = logit 0.75 (the ridge hardly pulls), 190.8 Elo points."""
    won = np.array([1.0] * 300 + [0.0] * 100)
    got = rate_models(["a"] * 400, ["b"] * 400, won, scale="elo", draws=400)
    assert got.names == ("a", "b") and got.tie is None
    assert got.ratings[0].mean - got.ratings[1].mean == pytest.approx(400 * math.log10(3), rel=0.01)
    assert got.ratings[0].mean + got.ratings[1].mean == pytest.approx(2000)
    assert got.win_probability("a", "b") == pytest.approx(0.75, abs=2e-3)
    assert got.win_probability("b", "a") == pytest.approx(0.25, abs=2e-3)
    # SE of the difference of logits is 1/√(n p q); each rating carries half of it
    half = (got.ratings[0].high - got.ratings[0].low) / 2 / ELO_UNIT
    assert half == pytest.approx(1.96 / math.sqrt(400 * 0.75 * 0.25) / 2, rel=0.1)
    with pytest.raises(ValueError, match="'z' was not rated; rated are a, b"):
        got.win_probability("a", "z")


@pytest.mark.parametrize("ties", ["half", "davidson"])
def test_three_models_against_a_general_optimiser(ties: str) -> None:
    one, two, won = games(200)
    won[::7] = 0.5
    got = rate_models(one, two, won, ties=ties, draws=10)
    place = {n: i for i, n in enumerate(NAMES)}
    i, j = (np.array([place[x] for x in side]) for side in (one, two))

    def loss(beta: np.ndarray) -> float:
        gap = beta[i] - beta[j]
        if ties == "half":
            total = np.logaddexp(0, -gap) * won + np.logaddexp(0, gap) * (1 - won)
        else:
            logits = np.stack([gap / 2, np.full_like(gap, beta[3]), -gap / 2])
            kind = np.where(won == 1, 0, np.where(won == 0.5, 1, 2))
            total = np.logaddexp.reduce(logits) - logits[kind, np.arange(len(kind))]
        return float(total.sum() + RIDGE / 2 * (beta @ beta))

    wanted = minimize(loss, np.zeros(3 + (ties == "davidson")), tol=1e-12).x
    assert [r.mean for r in got.ratings] == pytest.approx(wanted[:3].tolist(), abs=1e-3)
    assert sum(r.mean for r in got.ratings) == pytest.approx(0, abs=1e-9)
    if ties == "davidson":
        assert got.tie is not None and got.tie.mean == pytest.approx(math.exp(wanted[3]), rel=1e-3)
        assert 0 < got.tie.low < got.tie.mean < got.tie.high


def test_expected_preferences_with_ties() -> None:
    """Equal models tie with ν/(2 + ν): half of it is each one's, so that the expectation is 1/2."""
    equal = Ratings(("a", "b"), (Interval(0, 0, 0), Interval(0, 0, 0)), "logit", Interval(0.8, 0.5, 1.1))
    assert equal.win_probability("a", "b") == 0.5
    apart = Ratings(("a", "b"), (Interval(1, 0, 0), Interval(-1, 0, 0)), "logit", Interval(1.0, 0.5, 1.1))
    e = math.e
    assert apart.win_probability("a", "b") == pytest.approx((e + 0.5) / (e + 1 / e + 1))


def test_prompts_count_and_not_rows() -> None:
    one, two, won = games(60, 1)
    clusters = [str(i) for i in range(60)]
    once = rate_models(one, two, won, clusters=clusters, draws=400)
    often = rate_models(one * 4, two * 4, np.tile(won, 4), clusters=clusters * 4, draws=400)
    for a, b in zip(once.ratings, often.ratings, strict=True):
        assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.25)  # four times the rows: not half as wide
    single = rate_models(one, two, won, clusters=["p"] * 60, draws=5)
    assert all(math.isnan(r.low) for r in single.ratings)


def test_a_model_that_never_lost_is_rated_and_in_doubt() -> None:
    got = rate_models(["a"] * 20, ["b"] * 20, np.ones(20), draws=50)
    assert math.isfinite(got.ratings[0].mean)
    assert got.ratings[0].high - got.ratings[0].low > 0.5  # every draw is the same; the model's own error stands


def test_soft_preferences_have_less_doubt_than_wins_and_losses() -> None:
    rng = np.random.default_rng(0)
    soft = rng.uniform(0.55, 0.65, 80)
    hard = (rng.random(80) < soft).astype(float)
    a, b = (rate_models(["a"] * 80, ["b"] * 80, p, draws=100).ratings[0] for p in (soft, hard))
    assert a.high - a.low < 0.5 * (b.high - b.low)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ties": "none"}, "ties are half or davidson"),
        ({"scale": "chess"}, "the scale is logit or elo"),
        ({"draws": 1}, "at least 2 draws"),
        ({"preferences": np.array([0.5])}, "two models and a preference, got 2, 2 and 1"),
        ({"preferences": np.array([0.5, 1.5])}, r"row 1 is 1.5, not in \[0, 1\]"),
        ({"preferences": np.array([0.5, 0.7]), "ties": "davidson"}, "row 1 is 0.7, not 0, 0.5 or 1"),
        ({"second": ["b", "a"]}, "row 1 compares 'a' with itself"),
        ({"first": ["a", "x"], "second": ["b", "y"]}, "never compared with each other: {a, b} and {x, y}"),
    ],
)
def test_bad_tables(change: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"first": ["a", "a"], "second": ["b", "b"], "preferences": np.array([1.0, 0.0])}
    given |= change
    with pytest.raises(ValueError, match=words):
        rate_models(given.pop("first"), given.pop("second"), given.pop("preferences"), **given)  # type: ignore[arg-type]
