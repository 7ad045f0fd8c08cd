"""Principles that disagree: planted conflicts are found, the queue holds what is open, ablation counts flips."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from trueup.feedback.aggregate import Pair
from trueup.feedback.conflicts import ablation, conflict_matrix, contested_pairs, queue_lines
from trueup.feedback.constitution import Constitution, validated
from trueup.ops.watching import conflict_share


def made(*principles: dict[str, Any], **fields: Any) -> Constitution:
    listed = [{"level": p["id"][0], "statement": f"Be {p['id']}.", **p} for p in principles]
    levels = [{"name": "a"}, {"name": "b"}, {"name": "w", "kind": "weighted"}, {"name": "x", "kind": "weighted"}]
    return validated({"version": 1, "name": "t", "levels": levels, "principles": listed, **fields}, "t")


def planted(n: int = 200, seed: int = 0) -> dict[str, dict[str, float | None]]:
    """a1 and a2 follow one hidden quality and contradict each other on a fifth of the rows; a3 goes with a1."""
    rng = np.random.default_rng(seed)
    table: dict[str, dict[str, float | None]] = {}
    for i in range(n):
        lean = rng.choice([-1, 1]) * rng.uniform(0.3, 0.45)
        turn = -1 if i % 5 == 0 else 1
        table[f"r{i}"] = {"a1": 0.5 + lean, "a2": 0.5 + turn * lean, "a3": 0.5 + lean * 0.9, "b1": 0.5 - lean}
    return table


def test_the_matrix_finds_the_planted_conflict_and_no_other() -> None:
    c = made({"id": "a1"}, {"id": "a2"}, {"id": "a3"}, {"id": "b1"})
    table = planted()
    cells = {(x.first, x.second): x for x in conflict_matrix(c, table)}
    assert len(cells) == 6
    assert [k for k, x in cells.items() if x.alarm] == [("a1", "a2"), ("a2", "a3")]
    cell = cells["a1", "a2"]
    assert (cell.pairs, cell.disagree, cell.opposite) == (200, 0.2, 0.2)
    assert all(int(e.row[1:]) % 5 == 0 for e in cell.examples) and len(cell.examples) == 3
    assert all((e.p_first - 0.5) * (e.p_second - 0.5) < 0 for e in cell.examples)
    assert cells["a1", "a3"].disagree == 0 and cells["a1", "a3"].phi == pytest.approx(1)
    # b1 always says the opposite, but of another level: priority resolves it, no alarm
    assert (
        cells["a1", "b1"].disagree == 1 and cells["a1", "b1"].phi == pytest.approx(-1) and not cells["a1", "b1"].alarm
    )
    p = np.array([[row[n] for row in table.values()] for n in ("a1", "a2", "a3")], dtype=float)
    assert max(cells[k].disagree for k in cells if k[1] != "b1") == pytest.approx(conflict_share(p))


def test_the_alarm_begins_above_a_tenth() -> None:
    c = made({"id": "a1"}, {"id": "a2"})
    for wrong, alarm in ((10, False), (11, True)):
        table = {str(i): {"a1": 0.9, "a2": 0.1 if i < wrong else 0.9} for i in range(100)}
        cell = conflict_matrix(c, table)[0]
        assert cell.disagree == wrong / 100 and cell.alarm is alarm
    unclear = {str(i): {"a1": 0.59, "a2": 0.41} for i in range(10)}
    assert not conflict_matrix(c, unclear)[0].alarm
    assert conflict_matrix(c, unclear, margin=0.1)[0].alarm


def test_what_is_not_judged_does_not_count() -> None:
    c = made({"id": "a1"}, {"id": "a2"})
    table: dict[str, dict[str, float | None]] = {"1": {"a1": 0.9, "a2": None}, "2": {"a1": 0.9}, "3": {"a2": 0.9}}
    cell = conflict_matrix(c, table)[0]
    assert cell.pairs == 0 and math.isnan(cell.disagree) and not cell.alarm
    assert "no pair judged under both" in cell.line()
    assert json.loads(json.dumps(cell.to_json(), allow_nan=False))["phi"] is None
    with pytest.raises(ValueError, match="'zz' is no principle in force"):
        conflict_matrix(c, {"1": {"zz": 0.5}})


def test_a_line_says_what_is_declared() -> None:
    declared = [{"id": "a1", "resolution": "other", "why": "q"}, {"id": "a2", "resolution": "person", "why": "q"}]
    c = made({"id": "a1", "overrides": ["a2"]}, {"id": "a2"}, {"id": "a3", "conflicts_with": declared})
    table = {"1": {"a1": 0.9, "a2": 0.1, "a3": 0.8}}
    lines = [cell.line() for cell in conflict_matrix(c, table)]
    assert lines[0] == (
        "a1 against a2: disagree clearly on 100.0% of 1 pairs, phi undefined, mean gap 0.80, "
        "declared: a1 overrides a2  ALARM"
    )
    assert "declared: a1 prevails" in lines[1] and "declared: a person decides" in lines[2]


def test_the_queue_holds_what_nothing_resolves() -> None:
    c = made(
        {"id": "a1"}, {"id": "a2"}, {"id": "b1"}, {"id": "w1"}, {"id": "x1"},
        {"id": "a4", "overrides": ["a1"]},
    )  # fmt: skip
    table: dict[str, dict[str, float | None]] = {
        "same level": {"a1": 0.9, "a2": 0.2},
        "further apart": {"a1": 0.95, "a2": 0.05},
        "levels": {"a1": 0.9, "b1": 0.1},
        "both weighted": {"w1": 0.9, "x1": 0.1},
        "override": {"a4": 0.9, "a1": 0.1},
        "agree": {"a1": 0.9, "a2": 0.8},
        "unclear": {"a1": 0.9, "a2": 0.45},
    }
    queue = contested_pairs(c, table)
    assert [q.row for q in queue] == ["further apart", "both weighted", "same level"]
    assert (queue[0].first, queue[0].second, queue[0].p_first, queue[0].p_second) == ("a1", "a2", 0.95, 0.05)
    assert not any(q.waits for q in queue)
    pairs = {row: Pair("p", f"{row} 1", f"{row} 2") for row in table}
    line = queue_lines(queue, pairs)[0]
    assert line["row"] == "further apart" and line["answers"] == ["further apart 1", "further apart 2"]
    assert line["principles"] == {"a1": 0.95, "a2": 0.05}


def test_pairs_that_wait_for_a_person_come_first_and_settled_ones_leave_the_queue() -> None:
    pair = {"prompt": "p", "first": "done 1", "second": "done 2"}
    case = {"situation": "s", "guidance": "g", "pair": pair, "prefers": "second"}
    conflict = {"id": "b1", "resolution": "person", "why": "so"}
    c = made({"id": "a1", "conflicts_with": [conflict], "edge_cases": [case]}, {"id": "a2"}, {"id": "b1"})
    table: dict[str, dict[str, float | None]] = {
        "same level": {"a1": 0.99, "a2": 0.01}, "waits": {"a1": 0.8, "b1": 0.2}, "done": {"a1": 0.9, "a2": 0.1},
    }  # fmt: skip
    pairs = {row: Pair("p", f"{row} 1", f"{row} 2") for row in table}
    queue = contested_pairs(c, table, pairs=pairs)
    assert [(q.row, q.waits) for q in queue] == [("waits", True), ("same level", False)]
    assert {q.row for q in contested_pairs(c, table)} == {"same level", "waits", "done"}
    table["three"] = {"a1": 0.9, "a2": 0.1, "b1": 0.05}
    three = next(q for q in contested_pairs(c, table, pairs=pairs) if q.row == "three")
    assert (three.second, three.others) == ("b1", 1)
    with pytest.raises(ValueError, match="no principle in force"):
        contested_pairs(c, {"1": {"zz": 0.5}})


def test_ablation_counts_by_hand() -> None:
    c = made(
        {"id": "a1"}, {"id": "a2"}, {"id": "b1", "conflicts_with": [{"id": "a2", "resolution": "person", "why": "q"}]}
    )
    table: dict[str, dict[str, float | None]] = {
        "1": {"a1": 0.9, "b1": 0.1},  # without a1: 0.1, a flip
        "2": {"a1": 0.9, "b1": 0.8},  # the same side, shift 0.1
        "3": {"a1": 0.9},  # without a1 nothing is left
        "4": {"a2": 0.9, "b1": 0.1},  # waits for a person; without either there is a label
        "5": {"a1": None, "b1": 0.7},
    }
    found = {a.principle: a for a in ablation(c, table)}
    a1, a2, b1 = found["a1"], found["a2"], found["b1"]
    assert (a1.judged, a1.flips, a1.lost, a1.gained, a1.rows) == (3, 1, 1, 0, ("1",))
    assert a1.shift == pytest.approx((0.8 + 0.1) / 2)
    assert (a2.judged, a2.flips, a2.lost, a2.gained) == (1, 0, 0, 1) and math.isnan(a2.shift)
    assert (b1.judged, b1.flips, b1.lost, b1.gained) == (4, 0, 1, 1)
    assert json.loads(json.dumps(a2.to_json(), allow_nan=False))["shift"] is None


def test_ablation_leaves_settled_pairs_alone() -> None:
    pair = {"prompt": "p", "first": "one", "second": "two"}
    case = {"situation": "s", "guidance": "g", "pair": pair, "prefers": "first"}
    c = made({"id": "a1", "edge_cases": [case]}, {"id": "b1"})
    table = {"1": {"a1": 0.1, "b1": 0.9}}
    assert ablation(c, table)[0].flips == 1
    assert ablation(c, table, pairs={"1": Pair("p", "one", "two")})[0].flips == 0
