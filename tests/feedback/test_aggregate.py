"""From verdicts to labels: worked by hand, and every constructed case against the order as it is written."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest

from trueup.feedback.aggregate import Decision, Pair, decide, decide_one, labelled, settled_case
from trueup.feedback.constitution import Constitution, validated

PAIR = Pair("p", "one", "two")


def made(*principles: dict[str, Any], levels: str = "abc", weighted: str = "", **defaults: Any) -> Constitution:
    """Principles named a1, a2, b1 ...: the letter is the level."""
    listed = [{"level": p["id"][0], "statement": f"Be {p['id']}.", **p} for p in principles]
    kinds = [{"name": x, "kind": "weighted" if x in weighted else "strict"} for x in levels]
    return validated(
        {"version": 1, "name": "t", "levels": kinds, "principles": listed, "defaults": {"margin": 0.2, **defaults}}, "t"
    )


def ids(*names: str) -> list[dict[str, Any]]:
    return [{"id": name} for name in names]


def test_within_a_level_log_odds_are_weighted() -> None:
    c = made({"id": "a1", "weight": 1}, {"id": "a2", "weight": 3})
    d = decide(c, {"a1": 0.9, "a2": 0.1})
    assert d.p == d.label == pytest.approx(0.25)  # odds 9^(1/4) · 9^(−3/4) = 1/3
    assert (d.how, d.decided_by, d.principles, d.tie) == ("level", "a", ("a1", "a2"), False)
    assert decide(made(*ids("a1", "a2")), {"a1": 0.9, "a2": 0.2}).p == pytest.approx(0.6)  # √(9 · 1/4) = 3/2


def test_the_highest_clear_level_decides_and_says_so() -> None:
    c = made(*ids("a1", "b1", "c1"))
    d = decide(c, {"a1": 0.55, "b1": 0.3, "c1": 0.99})
    assert (d.p, d.decided_by, d.principles) == (0.3, "b", ("b1",))
    assert d.why == "b gave 0.300, the highest level that is clear (not clear: a 0.550)"
    assert [(r.levels, r.p, r.clear) for r in d.rungs] == [
        (("a",), 0.55, False),
        (("b",), 0.3, True),
        (("c",), 0.99, True),
    ]
    d = decide(c, {"a1": 0.55, "b1": 0.45})
    assert (d.p, d.decided_by) == (0.45, "b")
    assert d.why == "no level is clear (a 0.550); the last with a verdict, b gave 0.450"


def test_priority_decides_as_written_in_every_constructed_case() -> None:
    """4096 cases: three strict levels of two principles, each for one answer or the other, undecided or unscored."""
    names = ["a1", "a2", "b1", "b2", "c1", "c2"]
    c = made(*ids(*names))
    right = 0
    for values in itertools.product((0.9, 0.1, 0.55, None), repeat=6):
        verdicts = dict(zip(names, values, strict=True))
        expected, level = by_hand([[verdicts[f"{x}1"], verdicts[f"{x}2"]] for x in "abc"], 0.2)
        d = decide(c, verdicts)
        right += (
            d.decided_by == level
            and (d.p is None) == (expected is None)
            and (expected is None or math.isclose(d.p or 0.0, expected, abs_tol=1e-9))
        )
    assert right == 4**6


def by_hand(levels: list[list[float | None]], margin: float) -> tuple[float | None, str | None]:
    """The order of priority as the documentation writes it, by odds and roots instead of log-odds and means."""
    last: tuple[float | None, str | None] = (None, None)
    for name, verdicts in zip("abc", levels, strict=True):
        odds = [p / (1 - p) for p in verdicts if p is not None]
        if odds:
            mean = math.prod(odds) ** (1 / len(odds))
            last = mean / (1 + mean), name
            if abs(2 * mean / (1 + mean) - 1) > margin + 1e-9:
                return last
    return last


@pytest.mark.parametrize("lower", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_no_weight_below_turns_a_clear_level_above(lower: float) -> None:
    c = made({"id": "a1", "weight": 0.001}, {"id": "b1", "weight": 1000}, {"id": "b2", "weight": 1000})
    assert decide(c, {"a1": 0.61, "b1": lower, "b2": lower}).p == 0.61


def test_neighbouring_weighted_levels_are_one_rung() -> None:
    c = made({"id": "a1"}, {"id": "b1", "weight": 3}, {"id": "c1"}, weighted="bc")
    d = decide(c, {"a1": 0.5, "b1": 0.9, "c1": 0.1})
    assert (d.decided_by, d.principles) == ("b+c", ("b1", "c1"))
    assert d.p == pytest.approx(0.75)  # odds 9^(3/4) · 9^(−1/4) = 3
    strict_between = made({"id": "a1"}, {"id": "b1"}, {"id": "c1"}, weighted="ac")
    assert [r.levels for r in decide(strict_between, {"a1": 0.5}).rungs] == [("a",), ("b",), ("c",)]
    assert decide(strict_between, {"a1": 0.9, "b1": 0.1}).p == 0.9  # alone on its rung, it decides as a strict one does


def test_a_tie_is_exactly_one_half() -> None:
    c = made(*ids("a1", "a2", "b1"))
    for p in (0.1, 0.3, 0.77, 1.0):
        d = decide(c, {"a1": p, "a2": 1 - p, "b1": 0.5})
        assert d.p == d.label == 0.5 and d.tie
        assert decide(c, {"a1": p, "a2": 1 - p, "b1": 0.5}, label="hard").label == 0.5
        assert decide(c, {"a1": p, "a2": 1 - p, "b1": 0.9}).decided_by == "b"


def test_a_judge_that_always_prefers_one_place_gives_one_half_everywhere() -> None:
    """Both orders together give 0.5 under each principle; so does any constitution."""
    c = made({"id": "a1", "overrides": ["b1"]}, {"id": "a2", "weight": 3}, {"id": "b1"}, {"id": "c1"}, weighted="c")
    for names in itertools.product((0, 1), repeat=4):
        verdicts = {n: 0.5 for n, there in zip(("a1", "a2", "b1", "c1"), names, strict=True) if there}
        d = decide(c, verdicts)
        assert d.label == (0.5 if verdicts else None)


def test_labels_are_soft_hard_or_clamped() -> None:
    c = made(*ids("a1"))
    assert decide(c, {"a1": 0.93}).label == 0.93
    assert decide(c, {"a1": 0.93}, label="hard").label == 1.0
    assert decide(c, {"a1": 0.07}, label="hard").label == 0.0
    assert decide(c, {"a1": 0.93}, label="clamped").label == 0.6
    assert decide(c, {"a1": 0.07}, reasoned=True).label == 0.4
    assert decide(c, {"a1": 0.45}, reasoned=True).label == 0.45
    assert decide(c, {"a1": 0.93}, label="hard", reasoned=True).label == 1.0
    assert decide(c, {"a1": 0.93}, reasoned=True).p == 0.93  # before clamping
    wide = made(*ids("a1"), clamp=[0.2, 0.8], label="clamped")
    assert decide(wide, {"a1": 0.93}).label == 0.8 and labelled(0.1, wide) == 0.2


def test_clamping_comes_after_the_margin() -> None:
    """Clamped verdicts are never clear: a level above must decide before its label is clamped."""
    c = made(*ids("a1", "b1"))
    assert decide(c, {"a1": 0.9, "b1": 0.1}, reasoned=True).label == 0.6


def test_unscored_is_never_a_label() -> None:
    c = made(*ids("a1", "a2", "b1"))
    d = decide(c, {"a1": None, "b1": None})
    assert (d.label, d.p, d.how, d.decided_by, d.unscored) == (None, None, "unscored", None, ("a1", "b1"))
    assert decide(c, {}).how == "unscored"
    d = decide(c, {"a1": None, "a2": 0.8, "b1": 0.1})
    assert (d.p, d.unscored) == (0.8, ("a1",))
    assert decide(c, {"a1": None, "b1": 0.1}).p == 0.1


def test_an_override_sets_aside_where_it_is_clear() -> None:
    c = made({"id": "a1"}, {"id": "b1", "overrides": ["a1"]})
    d = decide(c, {"a1": 0.9, "b1": 0.1})
    assert (d.p, d.decided_by) == (0.1, "b")  # against the order of levels, as written
    assert [(s.principle, s.by, s.why) for s in d.set_aside] == [("a1", "b1", "b1 overrides it")]
    d = decide(c, {"a1": 0.9, "b1": 0.45})
    assert (d.p, d.set_aside) == (0.9, ())  # b1 is not clear
    assert decide(c, {"a1": 0.9, "b1": None}).p == 0.9
    assert decide(c, {"b1": 0.1}).set_aside == ()


def test_what_is_set_aside_sets_nothing_aside() -> None:
    c = made({"id": "c1"}, {"id": "b1", "overrides": ["c1"]}, {"id": "a1", "overrides": ["b1"]})
    d = decide(c, {"a1": 0.9, "b1": 0.1, "c1": 0.2})
    assert [s.principle for s in d.set_aside] == ["b1"]
    assert [r.p for r in d.rungs] == [0.9, None, 0.2]
    assert [s.principle for s in decide(c, {"a1": 0.5, "b1": 0.1, "c1": 0.2}).set_aside] == ["c1"]


def conflict(of: str, resolution: str) -> dict[str, Any]:
    return {"id": "a1", "conflicts_with": [{"id": of, "resolution": resolution, "why": "so it is"}]}


@pytest.mark.parametrize(
    ("resolution", "p", "aside"), [("this", 0.9, ["a2"]), ("other", 0.1, ["a1"]), ("weigh", 0.5, [])]
)
def test_declared_resolutions(resolution: str, p: float, aside: list[str]) -> None:
    c = made(conflict("a2", resolution), {"id": "a2"})
    d = decide(c, {"a1": 0.9, "a2": 0.1})
    assert d.p == p and [s.principle for s in d.set_aside] == aside
    assert all(s.why == "so it is" for s in d.set_aside)
    for verdicts in ({"a1": 0.9, "a2": 0.8}, {"a1": 0.9, "a2": 0.45}, {"a1": 0.55, "a2": 0.1}):
        assert decide(c, verdicts).set_aside == ()  # they agree, or one is not clear


def test_a_conflict_left_to_a_person_gives_no_label_where_it_would_decide() -> None:
    c = made(conflict("a2", "person"), {"id": "a2"}, {"id": "a3"}, {"id": "b1"})
    d = decide(c, {"a1": 0.9, "a2": 0.1, "a3": 0.99})
    assert (d.label, d.how, d.contested) == (None, "person", (("a1", "a2"),))
    assert "a1 against a2" in d.why
    assert decide(c, {"a1": 0.9, "a2": 0.1, "b1": 0.9}).p == 0.9  # level a is a tie; b decides, and is not contested
    assert decide(c, {"a1": 0.9, "a2": 0.6}).how == "level"
    below = made({"id": "a1"}, {**conflict("b2", "person"), "id": "b1"}, {"id": "b2"})
    assert decide(below, {"a1": 0.9, "b1": 0.9, "b2": 0.1}).p == 0.9  # decided above


def settled(prefers: str) -> Constitution:
    pair = {"prompt": "p", "first": "one", "second": "two"}
    case = {"situation": "s", "guidance": "humour is fine", "author": "Ann", "date": "2026-01-02", "pair": pair,
            "prefers": prefers}  # fmt: skip
    return made({"id": "a1"}, {"id": "b1", "edge_cases": [case]})


@pytest.mark.parametrize(("prefers", "p"), [("first", 1.0), ("second", 0.0), ("neither", 0.5)])
def test_a_settled_pair_has_its_label_in_either_order(prefers: str, p: float) -> None:
    c = settled(prefers)
    d = decide(c, {"a1": 0.4}, pair=PAIR, reasoned=True)
    assert (d.label, d.how, d.decided_by) == (p, "settled", "b1")
    assert d.why == "settled under b1 by Ann, 2026-01-02: humour is fine"
    assert decide(c, {"a1": 0.4}, pair=Pair("p", "two", "one")).label == 1 - p
    assert decide(c, {"a1": 0.4}, pair=Pair("p", "one", "three")).how == "level"
    assert decide(c, {"a1": 0.4}).how == "level"
    assert decide(c, {"a1": None}, pair=PAIR).label == p
    assert decide_one(c, "a1", 0.4, pair=PAIR).label == p
    assert settled_case(c, Pair("q", "one", "two")) is None


def test_one_random_principle_as_in_the_paper() -> None:
    c = made({"id": "a1"}, {"id": "b1", "overrides": ["a1"]})
    d = decide_one(c, "b1", 0.93, reasoned=True)
    assert (d.label, d.p, d.how, d.decided_by, d.principles) == (0.6, 0.93, "one", "b1", ("b1",))
    assert decide_one(c, "a1", None).how == "unscored"
    assert decide_one(c, "a1", 0.5).tie
    with pytest.raises(ValueError, match="'z' is no principle in force"):
        decide_one(c, "z", 0.5)


def test_bad_verdicts() -> None:
    c = made({"id": "a1"}, {"id": "a2", "status": "draft"})
    for name, p, said in (
        ("a1", 1.2, "no probability"),
        ("a1", math.nan, "no probability"),
        ("a2", 0.5, "no principle"),
    ):
        with pytest.raises(ValueError, match=said):
            decide(c, {name: p})


def test_swapping_the_answers_turns_every_decision_round() -> None:
    c = made(
        {"id": "a1", "overrides": ["b1"]},
        {"id": "a2"},
        {"id": "b1"},
        {**conflict("c2", "this"), "id": "c1"},
        {"id": "c2"},
    )
    names = ["a1", "a2", "b1", "c1", "c2"]
    for values in itertools.product((0.9, 0.25, 0.5, None), repeat=5):
        v = dict(zip(names, values, strict=True))
        one, other = decide(c, v), decide(c, {n: None if p is None else 1 - p for n, p in v.items()})
        assert one.decided_by == other.decided_by and one.principles == other.principles
        assert (one.p is None and other.p is None) or one.p == pytest.approx(1 - (other.p or 0.0))


def test_a_decision_can_be_written_down() -> None:
    d: Decision = decide(made(*ids("a1")), {"a1": 0.9})
    assert json.loads(json.dumps(d.to_json()))["rungs"][0]["principles"] == [["a1", 0.9]]
