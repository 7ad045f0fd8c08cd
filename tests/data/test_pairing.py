"""Which two of several scored answers make a pair, by hand."""

from __future__ import annotations

import pytest

from trueup.data.pairing import Candidate, Pairing, distinct, pair_up, similarity

WORDS = ("alpha beta gamma delta", "one two three four", "red green blue white", "north south east west")


def candidates(*scores: float, lengths: tuple[int, ...] | None = None) -> list[Candidate]:
    sizes = lengths or tuple(range(1, len(scores) + 1))
    return [Candidate(text=WORDS[i], score=s, length=sizes[i]) for i, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("pairing", "want"),
    [
        (Pairing(), ((3, 1),)),
        (Pairing(how="all", cap=9), ((3, 1), (0, 1), (3, 2), (0, 2), (2, 1), (3, 0))),
        (Pairing(how="all", cap=9, min_margin=1.5), ((3, 1), (0, 1), (3, 2))),
        (Pairing(how="all", cap=2), ((3, 1), (0, 1))),
        (Pairing(how="ranked", cap=9), ((3, 0), (0, 2), (2, 1))),
        (Pairing(how="ranked", cap=9, min_margin=1.0), ((0, 2), (2, 1))),
    ],
)
def test_pairs_by_hand(pairing: Pairing, want: tuple[tuple[int, int], ...]) -> None:
    """Scores 3, 0, 1.5, 4: ranking 3, 0, 2, 1; margins 4, 3, 2.5, 1.5, 1.5, 1."""
    scores = candidates(3.0, 0.0, 1.5, 4.0)
    assert pair_up(scores, pairing).pairs == want


def test_best_random_takes_any_other_and_the_same_every_time() -> None:
    scores = candidates(3.0, 0.0, 1.0, 4.0)
    found = {pair_up(scores, Pairing(how="best-random"), prompt).pairs[0] for prompt in range(40)}
    assert found == {(3, 0), (3, 1), (3, 2)}
    once, again = (pair_up(scores, Pairing(how="best-random", cap=3), 7).pairs for _ in range(2))
    assert once == again
    assert len(once) == 3


def test_length_matched_prefers_equal_lengths() -> None:
    scores = candidates(3.0, 0.0, 1.0, 4.0, lengths=(10, 11, 50, 90))
    assert pair_up(scores, Pairing(how="length-matched")).pairs == ((0, 1),)


@pytest.mark.parametrize(
    ("scores", "pairing", "reason"),
    [((1.0,), Pairing(), "fewer than two answers"), ((1.0, 1.0, 1.0), Pairing(), "all scores are equal"),
     ((1.0, 1.2), Pairing(min_margin=0.5), "no two scores differ by the margin")],
)  # fmt: skip
def test_why_there_is_no_pair(scores: tuple[float, ...], pairing: Pairing, reason: str) -> None:
    assert pair_up(candidates(*scores), pairing).reason == reason


def test_near_duplicates_leave_the_better_one() -> None:
    twins = [Candidate(text=t, score=s, length=1) for t, s in (("a b c d e", 1), ("A b c d e", 2), ("x y z", 0))]
    assert distinct(twins, 0.9) == [1, 2]
    found = pair_up(twins, Pairing())
    assert (found.pairs, found.near_duplicates) == (((1, 2),), 1)
    assert pair_up(twins[:2], Pairing()).reason == "all answers are near-duplicates"


def test_similarity_by_hand() -> None:
    assert similarity("a b c d", "a b c e") == pytest.approx(1 / 3)  # abc of abc, bcd, bce
    assert similarity("a b", "b c") == pytest.approx(1 / 3)
    assert similarity("", "") == 1.0
    assert similarity("a b c", "d e f") == 0.0


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="best-worst"):
        pair_up(candidates(1.0, 2.0), Pairing(how="best"))
