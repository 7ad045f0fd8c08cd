"""Word differences: nothing is lost, what is shared is found, a lone word between changes does not tear a mark."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trueup.reports.answers import beside, question_of
from trueup.reports.words import Piece, differences, share_in_common, shortened

TEXTS = st.text(alphabet="ab .,\n<é漢", max_size=60)


@given(TEXTS, TEXTS)
def test_the_pieces_are_the_texts_again(before: str, after: str) -> None:
    left, right = differences(before, after)
    assert "".join(p.text for p in left) == before
    assert "".join(p.text for p in right) == after


@given(TEXTS)
def test_equal_texts_have_no_differences(text: str) -> None:
    left, right = differences(text, text)
    assert [p.kind for p in [*left, *right]] == ["same"] * (2 * bool(text))


def test_what_changed_is_marked_on_both_sides() -> None:
    left, right = differences("the cat sat on the mat", "the dog sat on the mat")
    assert left == [Piece("same", "the "), Piece("other", "cat"), Piece("same", " sat on the mat")]
    assert right == [Piece("same", "the "), Piece("other", "dog"), Piece("same", " sat on the mat")]


def test_a_lone_word_between_changes_belongs_to_them() -> None:
    left, right = differences("one of many fishes swim", "two of few birds fly")
    assert left == [Piece("other", "one of many fishes swim")]
    assert right == [Piece("other", "two of few birds fly")]
    assert share_in_common(left) == 0 and share_in_common([]) == 1


def test_texts_with_nothing_in_common_are_not_marked() -> None:
    sample = beside("q", [("a", "grey", "alpha beta gamma", ""), ("b", "one", "delta epsilon", "")])
    assert {p.kind for side in sample.sides for p in side.pieces} == {"same"}
    assert "not marked" in sample.note


def test_controls_are_shown_and_long_texts_say_what_is_left_out() -> None:
    assert shortened("a\x00b\x1b[31m\n\t") == "a␀b␛[31m\n\t"
    assert shortened("x" * 50, 10) == "x" * 10 + " … (40 more characters)"


def test_the_question_is_what_the_user_said_last() -> None:
    chatml = "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert question_of(chatml) == "Why?"
    assert question_of("<bos>user\nred fish<eos>\n<bos>assistant\n") == "red fish"
    assert question_of("<s>[INST] Tell me [/INST]") == "Tell me"
    assert question_of("Human: one\n") == "one"
    assert question_of("just text") == "just text"
    assert question_of("") == ""
