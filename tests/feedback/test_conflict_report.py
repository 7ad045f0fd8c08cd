"""Verdicts in a file and what they say; bad lines are told with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trueup.errors import DataError
from trueup.feedback.aggregate import Pair
from trueup.feedback.conflict_report import conflict_report, queue_of, read_verdicts, verdict_line
from trueup.feedback.constitution import validated

PRINCIPLES = [{"id": n, "level": n[0], "statement": f"Be {n}."} for n in ("a1", "a2", "b1")]
C = validated({"version": 1, "name": "t", "levels": [{"name": "a"}, {"name": "b"}], "principles": PRINCIPLES}, "t")


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    pair = Pair("p", "one", "two")
    line = {**verdict_line("r1", pair, {"a1": 0.9, "a2": None}), "label": 0.9}
    table, pairs = read_verdicts(written(tmp_path / "v.jsonl", line, {"id": 7, "verdicts": {"b1": 1}}), C)
    assert table == {"r1": {"a1": 0.9, "a2": None}, "7": {"b1": 1}} and pairs == {"r1": pair}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"verdicts": {}}, "row: the id of the row is expected, got None"),
        ({"row": True, "verdicts": {}}, "row: the id of the row is expected, got True"),
        ({"row": "first", "verdicts": {}}, "row: 'first' stands twice"),
        ({"row": "2"}, "verdicts: an object of principle and probability is expected, got None"),
        ({"row": "2", "verdicts": {"zz": 0.5}}, "verdicts: 'zz' is no principle in force"),
        ({"row": "2", "verdicts": {"a1": 1.5}}, "verdicts.a1: a probability or null is expected, got 1.5"),
        ({"row": "2", "verdicts": {"a1": True}}, "verdicts.a1: a probability or null is expected, got True"),
        ({"row": "2", "verdicts": {"a1": "0.5"}}, "verdicts.a1: a probability or null is expected, got '0.5'"),
    ],
)
def test_bad_lines_are_told_with_their_place(tmp_path: Path, line: Any, said: str) -> None:
    path = written(tmp_path / "v.jsonl", {"row": "first", "verdicts": {"a1": 0.5}}, line)
    with pytest.raises(DataError) as error:
        read_verdicts(path, C)
    assert str(error.value).startswith(f"{path}:2: {said}")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").write_text('{"row": 1')
    with pytest.raises(DataError, match=r"v\.jsonl:1:"):
        read_verdicts(tmp_path / "v.jsonl", C)
    (tmp_path / "v.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no line in it"):
        read_verdicts(tmp_path / "v.jsonl", C)


def test_the_report() -> None:
    table: dict[str, dict[str, float | None]] = {str(i): {"a1": 0.9, "a2": 0.9 if i > 1 else 0.1} for i in range(10)}
    table["b"] = {"b1": 0.2}
    pairs = {"0": Pair("p", "one", "two")}
    report = conflict_report(C, table, pairs)
    assert [(c.first, c.second, c.disagree) for c in report.alarms] == [("a1", "a2", 0.2)]
    lines = report.lines()
    assert lines[0] == "11 pairs; couples of principles judged on the same pairs: 1"
    assert lines[1].endswith("ALARM")
    assert "alarms: 1 (principles of one level that disagree on more than a tenth)" in lines
    assert "pairs for a person: 2, of which without a label until then: 0" in lines
    assert "  0: a1 0.90 against a2 0.10" in lines
    # the two tied pairs are no longer tied without either
    assert "  a1: 2 flip, 0 lost, 0 gained, of 10 it was asked about" in lines
    assert "  b1: 0 flip, 1 lost, 0 gained, of 1 it was asked about" in lines
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (told["rows"], told["alarms"], len(told["matrix"]), len(told["queue"])) == (11, 1, 3, 2)
    assert [line["row"] for line in queue_of(report, pairs)] == ["0"]
