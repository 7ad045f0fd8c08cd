"""The audit against hand counts; order and mixtures as pure functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.data.audit import render_all
from trueup.data.mix import mix, shared_prompts, split_held_out
from trueup.data.order import balanced_permutation, batch_at, micro_batches, mismatch, permutation
from trueup.data.render import Renderer
from trueup.errors import DataError
from trueup.models.tiny import tiny_tokenizer
from trueup.types import Comparison, Prompt, Rating


def row(number: int, prompt: str, chosen: str, rejected: str) -> Comparison:
    return Comparison(id=f"r{number}", origin=f"f:{number}", prompt=prompt, chosen=chosen, rejected=rejected)


def renderer(**options) -> Renderer:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    return Renderer(tokenizer, **options)


ROWS = [row(1, "ab", "c", "defg"), row(2, "ab", "xyz", "q"), row(3, "ab", "c", "defg"), row(4, "a" * 90, "b", "c")]


def test_audit_against_hand_counts() -> None:
    kept, audit = render_all(ROWS, renderer(max_length=40, too_long="drop"), held_out=[row(9, "ab", "k", "l")])
    assert (audit.read, audit.kept, audit.dropped, len(kept)) == (4, 3, 1, 3)
    assert audit.reasons == {"too_long": 1}
    assert audit.dropped_rows[0].startswith("f:4: length: prompt alone")
    assert audit.duplicates == 1  # row 3 repeats row 1
    assert audit.longer_chosen is not None and audit.longer_chosen[0] == pytest.approx(1 / 3)
    # with its end token: chosen 2, 4, 2; rejected 5, 2, 5
    assert (audit.lengths["chosen"].least, audit.lengths["chosen"].most) == (2, 4)
    assert audit.lengths["rejected"].mean == pytest.approx(4.0)
    head = audit.lengths["prompt"].least
    assert audit.trained_share == pytest.approx(20 / (20 + 6 * head))
    assert audit.leaked == ["r9"]
    assert audit.example.endswith("⟦c<eos>⟧")
    assert any("WARNING" in line for line in audit.lines())
    assert audit.to_json()["kept"] == 3


def test_rows_that_cannot_be_used_stop_the_run_unless_they_may_be_skipped() -> None:
    with pytest.raises(DataError, match=r"1 of 4 rows cannot be rendered.*\n  f:4: length"):
        render_all(ROWS, renderer(max_length=40))
    assert len(render_all(ROWS, renderer(max_length=40), bad_rows="skip")[0]) == 3


def test_audit_of_labels() -> None:
    rows = [Rating(id=str(i), origin=f"f:{i}", prompt="a", completion="b" * (i + 1), label=i == 0) for i in range(4)]
    _, audit = render_all(rows, renderer())
    assert audit.desirable == 0.25
    assert any("0.33" in line for line in audit.lines())


def test_permutation_is_a_pure_function_of_seed_and_epoch() -> None:
    assert sorted(permutation(50, 1, 2)) == list(range(50))
    assert np.array_equal(permutation(50, 1, 2), permutation(50, 1, 2))
    assert not np.array_equal(permutation(50, 1, 2), permutation(50, 1, 3))
    assert not np.array_equal(permutation(50, 1, 2), permutation(50, 2, 2))
    assert permutation(5, 0, 0).tolist() == [4, 1, 2, 0, 3]  # frozen: a resume years later sees the same order


def test_batches_cover_every_epoch_exactly_and_cross_their_border() -> None:
    seen = np.concatenate([batch_at(7, 4, 3, step) for step in range(7)])
    for epoch in range(4):
        assert sorted(seen[7 * epoch : 7 * epoch + 7]) == list(range(7))


def test_every_stretch_of_a_balanced_order_holds_both_classes() -> None:
    labels = np.array([i % 4 == 0 for i in range(80)])
    order = balanced_permutation(labels, 0, 0)
    assert sorted(order) == list(range(80))
    for start in range(0, 80, 8):
        assert labels[order[start : start + 8]].sum() == 2
    assert not np.array_equal(order, balanced_permutation(labels, 0, 1))
    assert np.array_equal(batch_at(80, 8, 0, 0, labels), order[:8])


@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=12), st.integers(0, 50))
def test_mismatch_never_gives_a_row_its_own_prompt(prompts: list[bytes], step: int) -> None:
    partner = mismatch(prompts, 7, step)
    for i, j in enumerate(partner):
        assert (j == -1) == (len(set(prompts)) == 1)
        assert j == -1 or prompts[j] != prompts[i]


def test_mismatches_are_drawn_anew() -> None:
    prompts = [bytes([i]) for i in range(16)]
    assert mismatch(prompts, 0, 1) != mismatch(prompts, 0, 2)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.one_of(st.none(), st.integers(1, 8)),
       st.one_of(st.none(), st.integers(10, 200)))  # fmt: skip
def test_micro_batches_hold_every_row_once_within_their_limits(lengths: list[int], rows, tokens) -> None:
    parts = micro_batches(lengths, rows, tokens)
    assert sorted(i for p in parts for i in p) == list(range(len(lengths)))
    for part in parts:
        assert rows is None or len(part) <= rows
        assert tokens is None or len(part) == 1 or sum(lengths[i] for i in part) <= tokens


def conversation(number: int) -> tuple[dict, ...]:
    return ({"role": "user", "content": f"q{number // 3}"}, {"role": "assistant", "content": str(number)})


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=str(i), origin=f"f:{i}", prompt=conversation(i)) for i in range(count)]


def test_held_out_rows_share_no_first_turn_with_training_rows() -> None:
    rows = prompts(60)
    train, held = split_held_out(rows, 0.2, 0)
    assert len(train) + len(held) == 60 and 10 <= len(held) <= 15
    assert shared_prompts(train, held) == []
    assert [r.id for r in split_held_out(rows, 0.2, 0)[1]] == [r.id for r in held]
    assert [r.id for r in split_held_out(rows, 0.2, 1)[1]] != [r.id for r in held]
    assert split_held_out(rows[:3], 0.5, 0)[1] == []  # one family only: nothing can be held out
    assert split_held_out(rows, 0.0, 0)[1] == []


def test_mixtures_keep_their_proportions_and_repeat_nothing() -> None:
    a, b = prompts(100), [Prompt(id=f"b{i}", origin="g:1", prompt="x") for i in range(40)]
    mixed = mix({"a": a, "b": b}, {"a": 3.0, "b": 1.0}, 0)
    ids = [r.id for r in mixed]
    assert len(set(ids)) == len(ids) == 133
    assert sum(i.startswith("b") for i in ids) == 33
    with pytest.raises(DataError, match="weight"):
        mix({"a": a}, {"a": 0.0}, 0)
