"""Figures that monitors watch: worked numbers, independent computations, invariances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from trueup.ops.watching import (
    conflict_share,
    duplicate_share,
    length_correlation,
    member_spread,
    multiplicative_error,
    rarefied_distinct,
    repeated_ngrams,
    reward_peak,
    same_answers,
    shared_answer,
)


def test_correlation_of_one_group_is_pearsons_and_spearmans() -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(1, 9, 40).astype(float)
    score = length + rng.normal(size=40)
    one = np.zeros(40, dtype=np.int64)
    assert length_correlation(score, length, one) == pytest.approx(float(np.corrcoef(score, length)[0, 1]))
    assert length_correlation(score, length, one, rank=True) == pytest.approx(
        float(np.asarray(stats.spearmanr(score, length))[0])
    )


def test_correlation_ignores_what_differs_between_prompts() -> None:
    """Within each prompt the shorter answer wins by one; between prompts the longer-answered one scores far higher."""
    score, length = np.array([2.0, 1.0, 102.0, 101.0]), np.array([1.0, 2.0, 51.0, 52.0])
    group = np.array([0, 0, 1, 1])
    assert float(np.corrcoef(score, length)[0, 1]) > 0.99
    assert length_correlation(score, length, group) == pytest.approx(-1.0)
    assert length_correlation(score * 3 + 7, length, group) == pytest.approx(-1.0)


def test_correlation_that_is_not_defined_and_arrays_that_do_not_match() -> None:
    assert math.isnan(length_correlation(np.ones(3), np.arange(3.0), np.zeros(3, dtype=np.int64)))
    assert math.isnan(length_correlation(np.arange(3.0), np.arange(3.0), np.arange(3)))
    with pytest.raises(ValueError, match="2 scores, 3 lengths, 2 groups"):
        length_correlation(np.ones(2), np.ones(3), np.zeros(2, dtype=np.int64))


def test_repeated_ngrams_by_hand() -> None:
    """abab has 2-grams ab ba ab: one of three repeats; abcd none; one token has no 2-gram and does not count."""
    assert repeated_ngrams([[1, 2, 1, 2], [1, 2, 3, 4], [7]], 2) == pytest.approx((1 / 3 + 0) / 2)
    assert math.isnan(repeated_ngrams([[1, 2]], 4))


def test_rarefied_distinct_is_the_mean_over_all_samples() -> None:
    """5 bigrams, 3 drawn: the mean number of different ones over all 10 subsets, divided by 3."""
    sequences = [[1, 2, 1, 2], [1, 2, 3]]
    grams = ["12", "21", "12", "12", "23"]
    wanted = np.mean([len({grams[i] for i in chosen}) for chosen in combinations(range(5), 3)]) / 3
    assert rarefied_distinct(sequences, 2, draws=3) == pytest.approx(wanted)
    assert rarefied_distinct(sequences, 2, draws=5) == pytest.approx(3 / 5)
    assert math.isnan(rarefied_distinct(sequences, 2, draws=6))


def test_rarefied_distinct_does_not_depend_on_how_many_answers_there_are() -> None:
    rng = np.random.default_rng(1)

    def draw(count: int) -> Sequence[Sequence[int]]:
        return rng.integers(0, 12, (count, 20)).tolist()

    few, many = rarefied_distinct(draw(20)), rarefied_distinct(draw(2000))
    assert few == pytest.approx(many, abs=0.04)
    assert rarefied_distinct([[1] * 100]) == pytest.approx(1 / 64)


def test_shared_answer_counts_prompts() -> None:
    long = "I am happy to help"
    assert shared_answer([long, "some other words here", long.upper() + " "], "abc") == pytest.approx(0.5)
    assert shared_answer([long, long], "aa") != shared_answer([long, long], "ab")
    assert shared_answer([long, long], "ab") == 1.0
    assert math.isnan(shared_answer([long, long], "aa"))


def test_a_short_answer_counts_only_where_most_prompts_get_it() -> None:
    assert shared_answer(["yes", "yes", "no", "42"], "abcd") == 0.0
    assert shared_answer(["yes", "yes", "yes", "42"], "abcd") == pytest.approx(2 / 3)
    with pytest.raises(ValueError):
        shared_answer(["yes"], "ab")


def test_same_answers_by_hand() -> None:
    assert same_answers(["A", "a ", "b", "c", "d"], [0, 0, 0, 1, 1]) == pytest.approx(2 / 5)
    assert same_answers(["a", "a"], [0, 1]) != same_answers(["a", "a"], [0, 0])
    assert math.isnan(same_answers(["a", "a"], [0, 1]))


def test_duplicate_share() -> None:
    assert duplicate_share(["a", "b", "a", "c"]) == 0.5
    assert math.isnan(duplicate_share([]))


def test_multiplicative_error() -> None:
    assert multiplicative_error(np.array([math.log(2), -math.log(4), 0.0])) == pytest.approx((2 + 4 + 1) / 3)
    assert math.isnan(multiplicative_error(np.array([])))


def test_member_spread() -> None:
    assert member_spread(np.array([[1.0, 5.0], [3.0, 5.0]])) == pytest.approx(0.5)
    assert math.isnan(member_spread(np.ones((1, 4))))
    assert math.isnan(member_spread(np.ones((2, 0))))


def test_conflict_share_is_that_of_the_worst_two() -> None:
    """Principles 0 and 1 clash on pair 0 alone (on pair 1 one of them hardly leans); 2 agrees with 0."""
    p = np.array([[0.9, 0.9, 0.9], [0.1, 0.45, 0.9], [0.9, 0.9, 0.9]])
    assert conflict_share(p) == pytest.approx(1 / 3)
    assert conflict_share(p, margin=0.05) == pytest.approx(2 / 3)
    assert conflict_share(p[[0, 2]]) == 0.0
    assert conflict_share(np.array([[0.9, math.nan], [math.nan, 0.1], [0.1, math.nan]])) == 1.0
    assert math.isnan(conflict_share(np.array([[0.9, math.nan], [math.nan, 0.1]])))


def test_reward_peak_finds_the_curve_it_was_drawn_from() -> None:
    d = np.array([0.0, 0.5, 1.0, 2.0, 4.0, math.nan])
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = d * (1.2 - 0.5 * np.log(d))
    found = reward_peak(d, gain)
    assert found is not None
    assert found == pytest.approx((1.2, 0.5, math.exp(1.2 / 0.5 - 1)))
    near = np.linspace(found.distance * 0.9, found.distance * 1.1, 201)
    assert near[np.argmax(near * (1.2 - 0.5 * np.log(near)))] == pytest.approx(found.distance, rel=1e-2)


def test_reward_peak_that_cannot_be_told() -> None:
    d = np.array([1.0, 2.0, 4.0])
    assert reward_peak(d[:2], d[:2]) is None
    assert reward_peak(d, d * (1 + 0.5 * np.log(d))) is None
    assert reward_peak(d, d * (1 - 0.001 * np.log(d))) is None
