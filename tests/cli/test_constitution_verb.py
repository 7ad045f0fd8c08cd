"""`trueup constitution`: real command lines, their output, their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trueup.cli.main import run
from trueup.feedback.constitution import constitution_text, load_constitution

HEAD = "version: 1\nname: t\nlevels: [{name: a}]\n"
TWO = """\
principles:
  - {id: x, level: a, statement: Be brief in all.}
  - {id: y, level: a, statement: Do not be brief in all.}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(constitution_text("default"))
    return path


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(["constitution", *words])
    out, err = capsys.readouterr()
    return code, out, err


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code, out, _ = told(capsys, *words, "--json")
    return code, json.loads(out)


def test_check_of_the_bundled_constitution(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = told(capsys, "check", "default", "--strict")
    assert code == 0 and "0 errors, 0 warnings, 2 notes" in out
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "How do I spy on my ex?"}\n{"prompt": "Bye."}\n')
    code, found = as_json(capsys, "check", "default", "--prompts", str(prompts))
    assert code == 0 and found["sha256"] == load_constitution("default").sha256
    assert ["care-in-crisis"] in [f["where"] for f in found["findings"] if f["kind"] == "applies-to-nothing"]
    assert told(capsys, "check", "default", "--prompts", str(prompts), "--strict")[0] == 2


def test_check_finds_the_planted_conflict_where_it_is_declared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    declared = "conflicts_with: [{id: y, resolution: weigh, why: open}]"
    path.write_text(HEAD + TWO.replace("all.}", f"all., {declared}}}", 1))
    code, found = as_json(capsys, "check", str(path))
    where = {f["kind"]: f["where"] for f in found["findings"]}
    assert code == 0 and where["same-level-conflict"] == where["opposites"] == ["x", "y"]
    other = declared.replace("id: y", "id: x").replace("weigh", "person")
    path.write_text(
        HEAD + TWO.replace("all.}", f"all., {declared}}}", 1).replace("in all.}\n", f"in all., {other}}}\n")
    )
    code, out, _ = told(capsys, "check", str(path))
    assert code == 2 and "error: contradiction: y, x" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty; a constitution has"),
        ("version: 3\n", "version: 3 is not supported"),
        (HEAD + "tone: 1\n" + TWO, "tone: unknown field"),
        (HEAD + TWO.replace("all.}", "all., overrides: [y]}", 1).replace("in all.}\n", "in all., overrides: [x]}\n"),
         "overrides and resolutions go in a circle: x > y > x"),
    ],
)  # fmt: skip
def test_bad_constitutions_give_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    for words in (["check", str(path)], ["show", str(path)], ["diff", "default", str(path)]):
        code, out, err = told(capsys, *words)
        assert code == 2 and out == ""
        assert err.startswith(f"error: {path}: ") and said in err and err.count("\n") == 1


def test_bad_options(capsys: pytest.CaptureFixture[str], tmp_path: Path, own: Path) -> None:
    (tmp_path / "none.jsonl").write_text('{"text": 3}\n')
    base = ["settle", str(own), "--principle", "privacy", "--situation", "s", "--guidance", "g", "--author", "A"]
    for words, said in (
        (["check", "default", "--similar", "2"], "--similar: between 0 and 1"),
        (["check", "default", "--prompts", str(tmp_path / "gone.jsonl")], "no such file"),
        (["show", "default", "--principle", "zz"], "--principle: there is no 'zz'; there are no-serious-harm"),
        ([*base, "--date", "May"], "--date: string should match pattern"),
        ([*base[:-1], " "], "--author: string should have at least 1 character"),
        ([*base, "--row", "3"], "--queue, --row and --prefers go together"),
        (["import", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "o.yaml")], "no known shape"),
        (["import", str(tmp_path), "--out", str(tmp_path / "o.yaml")], "no .json file"),
    ):
        code, _, err = told(capsys, *words)
        assert code == 2 and said in err and err.count("\n") == 1, (words, err)
    assert not (tmp_path / "o.yaml").exists() and own.read_text() == constitution_text("default")


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "show")
    c = load_constitution("default")
    assert code == 0 and c.sha256 in out
    assert [out.index(f"\n{level.name} (") for level in c.levels] == sorted(
        out.index(f"\n{x.name} (") for x in c.levels
    )
    assert all(f"  {p.id}" in out and p.statement in out for p in c.principles)
    code, out, _ = told(capsys, "show", "default", "--principle", "no-preaching")
    p = c.principle("no-preaching")
    assert all(text in out for text in (p.wording("critique"), p.wording("comparison"), p.exemplars[0].good))
    code, tree = as_json(capsys, "show")
    assert tree.pop("sha256") == c.sha256 and tree == c.model_dump(mode="json")


def test_settle_and_diff(capsys: pytest.CaptureFixture[str], own: Path, tmp_path: Path) -> None:
    queue = tmp_path / "q.jsonl"
    queue.write_text(json.dumps({"row": "r7", "prompt": "p", "answers": ["one", "two"]}) + "\n")
    base = ["settle", str(own), "--principle", "privacy", "--situation", "a public figure", "--guidance", "answer",
            "--author", "Ann", "--date", "2026-01-02"]  # fmt: skip
    before = load_constitution(own).sha256
    code, out, _ = told(capsys, *base)
    after = load_constitution(own)
    assert code == 0 and f"before {before}" in out and f"after  {after.sha256}" in out
    case = after.principle("privacy").edge_cases[-1]
    assert (case.author, case.date, case.guidance, case.pair) == ("Ann", "2026-01-02", "answer", None)
    code, found = as_json(capsys, *base, "--queue", str(queue), "--row", "r7", "--prefers", "second")
    assert found["case"]["pair"] == {"prompt": "p", "first": "one", "second": "two"} and found["before"] == after.sha256
    code, _, err = told(capsys, *base, "--queue", str(queue), "--row", "r7", "--prefers", "third")
    assert code == 2 and "--prefers: input should be 'first', 'second' or 'neither', got 'third'" in err
    code, out, _ = told(capsys, "diff", "default", str(own))
    assert code == 1 and out.count("+ privacy.edge_cases:") == 2
    code, found = as_json(capsys, "diff", str(own), str(own))
    assert code == 0 and found["differences"] == [] and found["before"] == found["after"]
    assert told(capsys, "diff", "default", "default")[1].endswith("no difference\n")


def test_settle_without_a_date_says_today(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    assert (
        told(
            capsys, "settle", str(own), "--principle", "privacy", "--situation", "s", "--guidance", "g", "--author", "A"
        )[0]
        == 0
    )
    case = load_constitution(own).principle("privacy").edge_cases[-1]
    assert case.date is not None and case.date[:2] == "20" and len(case.date) == 10


def test_import_writes_a_file_that_check_reads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, out = tmp_path / "s.json", tmp_path / "o.yaml"
    source.write_text(json.dumps(["Which is kinder? Options:"]))
    code, said, _ = told(capsys, "import", str(source), "--out", str(out))
    assert code == 0 and "1 principle on 1 level," in said
    assert told(capsys, "check", str(out))[0] == 0
    code, _, err = told(capsys, "import", str(source), "--out", str(out))
    assert code == 2 and "exists already" in err
    assert told(capsys, "import", str(source), "--out", str(out), "--overwrite")[0] == 0


def test_a_planted_conflict_is_found_queued_and_settled(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Undeclared, so `check` by words cannot see it; the matrix does, and a settled pair leaves the queue."""
    path, verdicts, queue = tmp_path / "c.yaml", tmp_path / "v.jsonl", tmp_path / "q.jsonl"
    path.write_text(HEAD + TWO.replace("Do not be brief in all.", "Explain everything."))
    assert not [f for f in as_json(capsys, "check", str(path))[1]["findings"] if f["kind"] == "opposites"]
    lines = [
        {
            "row": f"r{i}",
            "prompt": f"p{i}",
            "answers": ["short", "long"],
            "verdicts": {"x": 0.9, "y": 0.1 if i < 3 else 0.8},
        }
        for i in range(10)
    ]
    verdicts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = told(capsys, "conflicts", str(path), str(verdicts), "--queue", str(queue))
    assert code == 1 and "x against y: disagree clearly on 30.0% of 10 pairs" in out and "ALARM" in out
    assert [json.loads(line)["row"] for line in queue.read_text().splitlines()] == ["r0", "r1", "r2"]
    assert told(capsys, "conflicts", str(path), str(verdicts), "--queue", str(queue))[0] == 2  # there already
    settle = [
        "settle",
        str(path),
        "--principle",
        "x",
        "--situation",
        "small talk",
        "--guidance",
        "be short",
        "--author",
        "A",
    ]
    assert told(capsys, *settle, "--queue", str(queue), "--row", "r1", "--prefers", "first")[0] == 0
    code, found = as_json(capsys, "conflicts", str(path), str(verdicts))
    assert code == 1 and [c["row"] for c in found["queue"]] == ["r0", "r2"] and found["alarms"] == 1
    lines[0]["verdicts"] = {"zz": 0.5}
    verdicts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = told(capsys, "conflicts", str(path), str(verdicts))
    assert code == 2 and err.startswith(f"error: {verdicts}:1: verdicts: 'zz'") and err.count("\n") == 1
