"""Reading files: what is kept, what is refused, and that the two add up."""

import gzip
import json
from pathlib import Path

import pytest

from trueup.data.read import ReadReport, read_rows
from trueup.types import Comparison

PAIR = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}


def jsonl(path: Path, *rows: object) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def test_one_pair(tmp_path):
    report = read_rows(jsonl(tmp_path / "a.jsonl", PAIR))
    (row,) = report.rows
    assert (report.read, report.kept, report.rejected, report.format) == (1, 1, 0, "preference")
    assert row == Comparison(id="a.jsonl:1", origin=f"{tmp_path}/a.jsonl:1", **PAIR)


def test_gzip_reads_like_the_plain_file(tmp_path):
    plain = jsonl(tmp_path / "a.jsonl", PAIR, PAIR)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert [row.chosen for row in read_rows(packed).rows] == ["Blue.", "Blue."]


def test_counts_must_add_up():
    with pytest.raises(ValueError, match="3 rows read, but 1 kept"):
        ReadReport(rows=[], kept=1, rejected=1, read=3, problems=[], format="text")
