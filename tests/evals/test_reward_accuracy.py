"""Reward accuracy by hand, with ties, clusters, calibration and a length rule that is hard to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from trueup.errors import DataError
from trueup.evals.reward_accuracy import (
    Margins,
    best_of_n_figure,
    calibration,
    pair_figures,
    score_pairs,
    score_rankings,
)
from trueup.feedback.base import Answered
from trueup.feedback.rules import Rule
from trueup.types import Comparison, Ranking


def margins(
    margin: Sequence[float], longer: Sequence[float] | None = None, prompts: Sequence[str] | None = None
) -> Margins:
    n = len(margin)
    return Margins(np.array(margin, dtype=float), np.array(longer or [1.0] * n), tuple(prompts or map(str, range(n))))


def test_accuracy_by_hand() -> None:
    """2 right, 1 wrong, 1 tie of 4: (2 + 1/2)/4. Longer is chosen 3 times of 4."""
    found = pair_figures(margins([2, 1, -1, 0], [5, 5, 5, -5]))
    assert (found.accuracy.mean, found.ties.mean, found.length.mean) == (0.625, 0.25, 0.75)
    assert found.length.note == "preferring the longer answer"
    assert found.gain.mean == found.test.difference.mean == pytest.approx(-0.125)
    assert (found.test.better, found.test.worse) == (1, 1)
    assert found.margin.mean == 0.5
    losses = [math.log1p(math.exp(-m)) for m in (2, 1, -1, 0)]
    assert found.log_loss.mean == pytest.approx(np.mean(losses))
    assert [f.name for f in found.figures()] == [
        "reward_accuracy", "reward_ties", "length_accuracy", "gain_over_length", "reward_log_loss", "reward_margin",
    ]  # fmt: skip


def test_the_length_rule_takes_its_better_direction() -> None:
    found = pair_figures(margins([1, 1, 1, 1], [-3, -2, -1, 4]))
    assert (found.length.mean, found.length.note) == (0.75, "preferring the shorter answer")


def test_a_scorer_that_is_length_in_disguise_is_found_out() -> None:
    longer = np.random.default_rng(0).normal(0.5, 1, 400)
    disguised = pair_figures(margins((2 * longer).tolist(), longer.tolist()))
    assert disguised.accuracy.low > 0.6  # looks fine alone
    assert disguised.gain.mean == 0.0
    assert "is not shown to be above that of preferring the longer answer" in (disguised.warning() or "")
    better = pair_figures(margins([1.0] * 400, longer.tolist()))
    assert better.warning() is None and better.test.p_value < 1e-6


def test_pairs_of_one_prompt_are_no_further_evidence() -> None:
    signs = np.random.default_rng(1).choice([-1.0, 1.0], 40, p=[0.3, 0.7]).tolist()
    once, often = pair_figures(margins(signs)), pair_figures(margins(signs * 10, prompts=[*map(str, range(40))] * 10))
    assert (often.accuracy.n, often.accuracy.clusters) == (400, 40)
    assert often.accuracy.mean == once.accuracy.mean
    assert often.accuracy.high - often.accuracy.low > 0.9 * (once.accuracy.high - once.accuracy.low)


def test_bad_margins() -> None:
    with pytest.raises(ValueError, match="margin is not finite"):
        pair_figures(margins([1, math.nan]))


def test_calibration_of_margins_that_mean_what_they_say() -> None:
    rng = np.random.default_rng(0)
    size = rng.uniform(0.05, 3, 5000)
    right = rng.random(5000) < 1 / (1 + np.exp(-size))
    honest = calibration(margins(np.where(right, size, -size).tolist()))
    assert sum(b.accuracy.low <= b.confidence <= b.accuracy.high for b in honest.table) >= 8
    assert honest.gap.low < 0 < honest.gap.high
    limit = float(honest.error.note.split("less than ")[1].split()[0])
    assert 0 < honest.error.mean < limit
    boastful = calibration(margins(np.where(right, 3 * size, -3 * size).tolist()))
    assert all(b.confidence > b.accuracy.high for b in boastful.table[2:8])
    assert boastful.gap.high < -0.05
    assert boastful.error.mean > 2 * limit


def test_calibration_by_hand_leaves_ties_out() -> None:
    found = calibration(margins([0.1, -0.1, 0, 2, 2]), bins=2)
    low, high = found.table
    sure = 1 / (1 + math.exp(-2))
    assert (low.accuracy.mean, low.n, high.accuracy.mean, high.n) == (0.5, 2, 1.0, 2)
    assert high.confidence == pytest.approx(sure)
    slight = 1 / (1 + math.exp(-0.1))
    assert found.gap.mean == pytest.approx((1 - 2 * slight + 2 * (1 - sure)) / 4)
    assert found.error.mean == pytest.approx((2 * slight - 1 + 2 * (1 - sure)) / 4)
    assert found.brier.mean == pytest.approx(((1 - slight) ** 2 + slight**2 + 2 * (1 - sure) ** 2) / 4)
    assert (found.error.n, found.brier.n) == (4, 4)
    with pytest.raises(ValueError, match="4 pairs for 5 bins"):
        calibration(margins([0.1, -0.1, 0, 2, 2]), bins=5)


def test_best_of_n_by_hand() -> None:
    """Right; wrong; a tie of two for the top, one right: (1 + 0 + 1/2)/3. Chance: (1/3 + 1/2 + 1/4)/3."""
    scores = [np.array([1.0, 3, 2]), np.array([1.0, 2]), np.array([4.0, 4, 0, 1])]
    found = best_of_n_figure(scores, [[1], [0], [0]], ["a", "b", "c"])
    assert found.mean == pytest.approx(0.5)
    assert found.note == "chance 0.36"


# ── through a scorer ──


def pair(name: str, chosen: object, rejected: object, prompt: object = "p") -> Comparison:
    return Comparison(id=name, origin=f"f:{name}", prompt=prompt, chosen=chosen, rejected=rejected)  # type: ignore[arg-type]


def test_scoring_pairs() -> None:
    rule = Rule("keyword", {"words": ["good"]})
    turn = ({"role": "assistant", "content": "good too"},)
    found = score_pairs(rule, [pair("1", "good", "bad one"), pair("2", "bad", turn, "q"), pair("3", "x", "y")])
    assert found.margin.tolist() == [1.0, -1.0, 0.0]
    assert found.longer.tolist() == [-3.0, -5.0, 0.0]
    assert found.prompts == ("p", "q", "p")


def test_the_prompt_reaches_the_scorer() -> None:
    class Echo:
        identity = "echo"

        def score(self, answers: Sequence[Answered]) -> np.ndarray:
            return np.array([float(a.prompt == a.answer) for a in answers])

    assert score_pairs(Echo(), [pair("1", "p", "x")]).margin.tolist() == [1.0]


def test_rankings() -> None:
    rows = [
        Ranking(id="1", origin="f:1", prompt="p", completions=("good", "bad", "worse"), scores=(3.0, 2.0, 1.0)),
        Ranking(id="2", origin="f:2", prompt="q", completions=("good", "good"), scores=(0.0, 1.0)),
    ]
    found = score_rankings(Rule("keyword", {"words": ["good"]}), rows)
    assert (found.mean, found.n) == (0.75, 2)
    same = Ranking(id="3", origin="f:3", prompt="q", completions=("a", "b"), scores=(1.0, 1.0))
    with pytest.raises(DataError, match="f:3: scores: all answers are equally good"):
        score_rankings(Rule("keyword", {"words": ["good"]}), [same])


def test_rows_that_cannot_be_scored() -> None:
    rule = Rule("keyword", {"words": ["good"]})
    turns = ({"role": "assistant", "content": "a"}, {"role": "user", "content": "b"})
    with pytest.raises(DataError, match="f:1: chosen: one assistant turn of text is expected, got 2 turns"):
        score_pairs(rule, [pair("1", turns, "x")])
    with pytest.raises(DataError, match="there is no comparison"):
        score_pairs(rule, [])
