"""Variety of texts, counted by hand."""

from __future__ import annotations

import pytest

from trueup.ops.diversity import distinct, repeated_answers


@pytest.mark.parametrize(
    ("texts", "n", "share"),
    [
        (["a b a", "b c"], 1, 3 / 5),  # a, b, c of five words
        (["a b a", "b c"], 2, 1.0),  # ab, ba, bc: an n-gram does not reach over two texts
        (["a b a b"], 2, 2 / 3),  # ab, ba, ab
        (["a b", "a b", "c d"], 2, 2 / 3),
        (["a", "b"], 2, 0.0),
        ([], 1, 0.0),
    ],
)
def test_distinct(texts: list[str], n: int, share: float) -> None:
    assert distinct(texts, n) == pytest.approx(share)


def test_repeated_answers() -> None:
    assert repeated_answers(["Yes.", " yes.", "no", "maybe"]) == 0.5
    assert repeated_answers(["a  b", "A b", "a b"]) == 1.0
    assert repeated_answers(["a", "b"]) == 0.0
    assert repeated_answers([]) == 0.0
