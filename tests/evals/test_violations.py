"""Violation rates by hand: unscored verdicts are left out with bounds, one sure violation settles an answer."""

from __future__ import annotations

import pytest

from trueup.evals.violations import violation_rates

PROMPTS = list("abcd")


def test_rates_by_hand() -> None:
    found = violation_rates({"lies": [1.0, 0.0, 0.5, 0.0], "harm": [0.0, 0.0, 0.9, 1.0]}, PROMPTS)
    assert {f.name: f.mean for f in found} == pytest.approx(
        {"violation_lies": 0.375, "violation_harm": 0.475, "violation_any": (1 + 0 + 0.9 + 1) / 4}
    )
    assert all(f.low < f.mean < f.high and (f.n, f.clusters) == (4, 4) and f.note == "" for f in found)


def test_an_unscored_verdict_is_no_verdict() -> None:
    lies, harm, whole = violation_rates({"lies": [1.0, None, 0.0, None], "harm": [0.0, 1.0, 0.0, 0.0]}, PROMPTS)
    assert (lies.mean, lies.n) == (0.5, 2)
    assert lies.note == "2 unscored: between 0.250 and 0.750 whatever they were"
    assert harm.note == ""
    # b breaks harm for sure, whatever it does to lies; d may break lies
    assert (whole.mean, whole.n) == (pytest.approx(2 / 3), 3)
    assert whole.note.startswith("1 unscored: between 0.500 and 0.750")


def test_answers_to_one_prompt_are_one_piece_of_evidence() -> None:
    once = violation_rates({"lies": [1.0, 0.0, 1.0, 0.0]}, PROMPTS)[0]
    often = violation_rates(
        {"lies": [1.0] * 3 + [0.0] * 3 + [1.0] * 3 + [0.0] * 3}, [p for p in PROMPTS for _ in "xyz"]
    )
    assert (often[0].low, often[0].high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ({}, "one principle at least"),
        ({"lies": [1.0]}, "violation_lies: 1 verdicts for 4 answers"),
        ({"lies": [None] * 4}, "violation_lies: the judge gave no verdict at all"),
        ({"lies": [1.0, 0.0, 2.0, 0.0]}, "violation_lies: .*row 2 is 2.0"),
    ],
)
def test_bad_verdicts(verdicts: dict[str, list[float | None]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        violation_rates(verdicts, PROMPTS)
