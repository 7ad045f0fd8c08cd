"""Journals: what is in them, what refuses to go on, and that any changed byte is found and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from trueup.errors import RunError
from trueup.runs.journal import Journal, read_journal


def filled(path: Path) -> Path:
    with Journal(path, {"model": "a"}) as journal:
        for k in range(5):
            journal.add(f"k{k}", {"x": k / 3, "text": "ä\n" * k})
    return path


def test_what_was_kept_comes_back_in_order(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    with Journal(path, {"model": "a"}) as journal:
        assert list(journal.records) == [f"k{k}" for k in range(5)]
        assert journal.resumed == 5
        journal.add("more", {})
    assert [line.get("key") for line in read_journal(path)] == [None, "k0", "k1", "k2", "k3", "k4", "more"]


def test_every_changed_byte_is_found_in_its_line(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        line = whole[:place].count(b"\n") + 1
        with pytest.raises(RunError, match=rf"{path}:{line}: "):
            list(read_journal(path))


def test_a_line_left_out_or_moved_is_found(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in (lines[:2] + lines[3:], [lines[0], lines[2], lines[1], *lines[3:]]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(RunError, match=r":[23]: not the line that was written"):
            Journal(path, {"model": "a"})


def test_an_unfinished_last_line_is_cut_off(tmp_path: Path) -> None:
    path = filled(tmp_path / "j")
    path.write_bytes(path.read_bytes()[:-7])
    with Journal(path, {"model": "a"}) as journal:
        assert len(journal.records) == 4
        journal.add("k4", {"again": True})
    assert len(list(read_journal(path))) == 6
