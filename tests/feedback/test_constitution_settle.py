"""Settled cases are written into any layout of YAML, and everything else in the file stays as it was."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest

from trueup.errors import ConfigError, DataError, ResourceError
from trueup.feedback.aggregate import Pair, decide
from trueup.feedback.constitution import constitution_text, load_constitution
from trueup.feedback.constitution_settle import queued_pair, settle
from trueup.feedback.principles import EdgeCase, SettledPair

HEAD = "version: 1  # the schema\nname: t\nlevels: [{name: a}]\n# principles follow\nprinciples:\n"
CASE = EdgeCase(situation='says: "x" # or y', guidance="- do: [it]\n  and: {more}", author="Ann Ö", date="2026-01-02")

LAYOUTS = {
    "no cases": """\
  - id: x  # first
    level: a
    statement: be x

  # the second
  - {id: y, level: a, statement: s}
""",
    "cases": """\
  - id: x
    edge_cases:
      - situation: old
        guidance: g  # why
      # after
    level: a
    statement: s
""",
    "cases at the end": """\
  - id: x
    level: a
    statement: s
    edge_cases:
    - situation: old
      guidance: >-
        folded
        text


# the end
""",
    "empty brackets": """\
  - id: x
    level: a
    edge_cases: []  # kept
    statement: s
""",
    "in brackets": """\
  - id: x
    level: a
    statement: s
    edge_cases: [{situation: old, guidance: g}] # kept
""",
    "brackets over lines": """\
  - id: x
    level: a
    edge_cases: [
      {situation: old, guidance: g},  # kept
    ]
    statement: s
""",
    "in braces": """\
  - {id: x, level: a, statement: s} # kept
  - {id: y, level: a, statement: s}
""",
    "braces over lines": """\
  - {id: x,
     level: a,
     statement: s, # kept
    }
""",
    "literal last": """\
  - id: x
    level: a
    statement: |
      two
      lines

  - id: y
    level: a
    statement: s
""",
    "no newline at the end": """\
  - id: x
    level: a
    statement: s""",
    "one indentation": """\
- id: x
  level: a
  statement: s
  edge_cases:
  - {situation: old, guidance: g}
- id: y
  level: a
  statement: t
""",
}
LAYOUTS["windows"] = LAYOUTS["no cases"]
INLINE = {"empty brackets", "in brackets", "brackets over lines", "in braces", "braces over lines"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_case_goes_into_every_layout_and_nothing_else_changes(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "c.yaml"
    text = HEAD + LAYOUTS[layout]
    text = text.replace("\n", "\r\n") if layout == "windows" else text
    path.write_bytes(text.encode())
    before = load_constitution(path)
    done = settle(path, "x", CASE)
    after, new = load_constitution(path), path.read_bytes().decode()
    assert (done.before, done.after) == (before.sha256, after.sha256) and done.before != done.after
    assert after.principle("x").edge_cases == (*before.principle("x").edge_cases, CASE)
    assert after.principles[1:] == before.principles[1:]
    gone = [d for d in difflib.ndiff(text.splitlines(), new.splitlines()) if d.startswith("- ")]
    assert len(gone) == (layout in INLINE), gone  # a line in brackets grows, no other is touched
    assert text.count("#") == new.count("#") - 1  # every comment is there (one # is in the case)
    assert (layout == "windows") == ("\r\n" in new) and new.count("\r\n") in (0, new.count("\n"))
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_case_follows_the_first_and_the_same_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(constitution_text("default"))
    names = [p.id for p in load_constitution("default").principles][::3]
    for name in names:
        for number in range(2):
            settle(path, name, EdgeCase(situation=f"case {number}", guidance="g", author="A", date="2026-01-02"))
    grown = load_constitution(path)
    for name in names:
        assert [c.situation for c in grown.principle(name).edge_cases][-2:] == ["case 0", "case 1"]
    kept = list(difflib.ndiff(constitution_text("default").splitlines(), path.read_text().splitlines()))
    assert not any(line.startswith("- ") for line in kept)
    with pytest.raises(ConfigError, match="this case is there already"):
        settle(path, names[0], EdgeCase(situation="case 1", guidance="g", author="A", date="2026-01-02"))


def test_a_settled_pair_decides_its_label_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + "  - {id: x, level: a, statement: s}\n  - {id: y, level: a, statement: t}\n")
    pair = Pair("How?\nAnd why?", "So: {it} goes.", "No way # ever.")
    assert decide(load_constitution(path), {"x": 0.9, "y": 0.1}, pair=pair).tie
    told = SettledPair(prompt=pair.prompt, first=pair.first, second=pair.second)
    settle(path, "x", EdgeCase(situation="s", guidance="g", author="A", date="2026-01-02", pair=told, prefers="second"))
    d = decide(load_constitution(path), {"x": 0.9, "y": 0.1}, pair=pair)
    assert (d.label, d.how, d.decided_by) == (0.0, "settled", "x")
    before = path.read_bytes()
    contrary = EdgeCase(situation="s", guidance="g", author="B", date="2026-01-03", pair=told, prefers="first")
    with pytest.raises(ConfigError, match=r"c\.yaml: principles\.y\.edge_cases: settles a pair otherwise than x"):
        settle(path, "y", contrary)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_settled_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the bundled constitution is not changed"):
        settle(Path("default"), "privacy", CASE)
    path = tmp_path / "c.yaml"
    own = "version: 1\nname: t\nextends: default\nprinciples: [{id: x, level: helpful, statement: s}]\n"
    path.write_text(own)
    with pytest.raises(ConfigError, match=r"principles\.privacy: stands in default, which this file extends"):
        settle(path, "privacy", CASE)
    with pytest.raises(ConfigError, match="there is no principle 'zz'; there are no-serious-harm,"):
        settle(path, "zz", CASE)
    assert path.read_text() == own
    settle(path, "x", CASE)
    shared = "edge_cases: &e [{situation: old, guidance: g}]"
    anchored = (
        HEAD
        + f"  - {{id: x, level: a, statement: s, {shared}}}\n  - {{id: y, level: a, statement: t, edge_cases: *e}}\n"
    )
    path.write_text(anchored)
    with pytest.raises(ConfigError, match="cannot be added to as it is laid out; add by hand"):
        settle(path, "x", CASE)  # y would get the case too
    assert path.read_text() == anchored and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_the_mode_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text(HEAD + "  - {id: x, level: a, statement: s}\n")
    real.chmod(0o640)
    link.symlink_to(real)
    settle(link, "x", CASE)
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert load_constitution(real).principle("x").edge_cases == (CASE,)


def test_a_file_that_cannot_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + "  - {id: x, level: a, statement: s}\n")
    before = path.read_bytes()

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ResourceError, match="No space left"):
        settle(path, "x", CASE)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_queued_pair(tmp_path: Path) -> None:
    queue = tmp_path / "q.jsonl"
    rows = [{"row": "1", "prompt": "p", "answers": ["a", "b"]}, {"row": 2, "prompt": "p"}]
    queue.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert queued_pair(queue, "1") == {"prompt": "p", "first": "a", "second": "b"}
    with pytest.raises(ConfigError, match=r"q\.jsonl:2: a prompt and two answers are expected"):
        queued_pair(queue, "2")
    with pytest.raises(ConfigError, match="no row '3'"):
        queued_pair(queue, "3")
    with pytest.raises((ConfigError, DataError), match="cannot be read"):
        queued_pair(tmp_path / "none", "1")
