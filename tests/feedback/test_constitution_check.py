"""What `check` finds, planted one by one; the bundled constitution has nothing to find."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trueup.feedback.constitution import Constitution, load_constitution, validated
from trueup.feedback.constitution_check import check_constitution, likeness, opposite
from trueup.feedback.constitution_diff import differences
from trueup.feedback.principles import Asked

DATA = Path(__file__).parents[2].parent / "shared/data"
TEXTS = {
    "kind": "Be kind and patient with everybody who asks.",
    "true": "State only facts that can be checked.",
    "short": "Keep every answer under five sentences.",
}


def made(*principles: dict[str, Any], **fields: Any) -> Constitution:
    whole = {"critique_prompt": "c", "revision_prompt": "r", "choice_prompt": "q",
             "exemplars": [{"prompt": "p", "bad": "b", "critique": "c", "good": "g"}]}  # fmt: skip
    listed = [{"level": "a", "statement": TEXTS.get(p["id"], "q"), **whole, **p} for p in principles]
    used = {p["level"] for p in listed}
    levels = [{"name": n} for n in "ab" if n in used]
    return validated({"version": 1, "name": "t", "levels": levels, "principles": listed, **fields}, "t")


def kinds(c: Constitution, prompts: Any = None) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(f.severity, f.kind, f.where) for f in check_constitution(c, prompts)]


SOUND = ({"id": "kind"}, {"id": "true"}, {"id": "short"})


def test_nothing_is_found_where_nothing_is_planted() -> None:
    assert kinds(made(*SOUND), [Asked("hello", (), None)]) == []


def says(of: str, other: str, resolution: str, **fields: Any) -> dict[str, Any]:
    return {"id": of, "conflicts_with": [{"id": other, "resolution": resolution, "why": "w"}], **fields}


@pytest.mark.parametrize(
    ("principles", "found"),
    [
        ([says("kind", "true", "this"), {"id": "true"}], ("note", "same-level-conflict", ("kind", "true"))),
        ([says("kind", "true", "weigh"), {"id": "true"}], ("warning", "same-level-conflict", ("kind", "true"))),
        ([says("kind", "true", "person"), {"id": "true"}], ("warning", "same-level-conflict", ("kind", "true"))),
        ([says("kind", "true", "this"), {"id": "true", "level": "b"}], ("note", "conflict", ("kind", "true"))),
        ([says("kind", "true", "weigh"), says("true", "kind", "person")], ("error", "contradiction", ("true", "kind"))),
        ([says("kind", "true", "weigh", overrides=["true"]), {"id": "true"}],
         ("error", "contradiction", ("kind", "true"))),
        ([{"id": "kind"}, {"id": "true", "level": "b", "overrides": ["kind"]}],
         ("warning", "against-order", ("true", "kind"))),
        ([{"id": "kind", "status": "draft"}, {"id": "true", "overrides": ["kind"]}],
         ("warning", "no-effect", ("true", "kind"))),
        ([{"id": "kind"}, {"id": "true", "status": "retired"}], ("note", "status", ("true",))),
        ([{"id": "kind"}, {"id": "true", "statement": TEXTS["kind"].upper()}],
         ("warning", "near-duplicate", ("kind", "true"))),
        ([{"id": "kind"}, {"id": "true", "statement": "Be kind and patient with anybody who asks."}], None),
        ([{"id": "kind"}, {"id": "true", "statement": "Do not be kind and patient with everybody who asks."}],
         ("warning", "opposites", ("kind", "true"))),
        ([{"id": "kind", "critique_prompt": None}], ("warning", "wording", ("kind",))),
        ([{"id": "kind", "choice_prompt": None}], ("warning", "wording", ("kind",))),
        ([{"id": "kind", "edge_cases": [{"situation": "s", "guidance": "g", "author": "A", "prefers": "first",
                                         "pair": {"prompt": "p", "first": "1", "second": "2"}}]}],
         ("warning", "unsigned", ("kind",))),
        ([{"id": "kind", "exemplars": []}], ("warning", "exemplar", ("kind",))),
        ([{"id": "kind", "exemplars": [], "stages": ["label"]}], ("warning", "stage", ("revise",))),
        ([{"id": "kind"}, {"id": "true", "level": "b", "status": "draft"}], ("warning", "empty-level", ("b",))),
    ],
)  # fmt: skip
def test_each_doubt_is_found_where_it_is(principles: list[dict[str, Any]], found: Any) -> None:
    seen = kinds(made(*principles))
    if found is None:
        assert seen == []
        return
    assert found in seen
    assert all(where == found[2] or severity == "note" for severity, _, where in seen) or found[0] == "error"


def test_errors_come_first_and_a_line_says_where() -> None:
    c = made(says("kind", "true", "weigh"), says("true", "kind", "person"), {"id": "short", "exemplars": []})
    found = check_constitution(c)
    assert found[0].severity == "error"
    assert found[0].line().startswith("error: contradiction: true, kind: their conflict is resolved as 'person' here")
    assert json.loads(json.dumps(found[0].to_json()))["where"] == ["true", "kind"]


def test_decided_by_one_principle_overrides_do_nothing() -> None:
    c = made({"id": "kind", "overrides": ["true"]}, {"id": "true"}, defaults={"decide": "one"})
    assert ("note", "no-effect", ()) in kinds(c)


def test_principles_that_apply_to_nothing_in_the_prompts() -> None:
    c = made({"id": "kind", "applies_to": {"regex": "bomb"}}, {"id": "true", "applies_to": {"tags": ["law"]}})
    prompts = [Asked("a bomb", (), None), Asked("hello", (), None), Asked("bye", (), None)]
    assert kinds(c, prompts) == [
        ("warning", "applies-to-nothing", ("true",)),
        ("warning", "uncovered", ()),
        ("note", "coverage", ("kind",)),
    ]
    text = {f.kind: f.text for f in check_constitution(c, prompts)}
    assert text["coverage"] == "applies to 1 of 3 prompts"
    assert text["uncovered"] == "no principle applies to 2 of 3 prompts"


def test_likeness_by_hand() -> None:
    assert likeness("Be kind.", "be  KIND") == 1.0
    assert likeness("a b c d", "a b c e") == 0.75  # 2 · 3 / 8
    assert likeness("a b", "c d") == 0.0
    assert likeness("", "") == 1.0 and likeness("a", "") == 0.0
    assert likeness("a b c", "c b a") == pytest.approx(1 / 3)  # one word in order


def test_opposites() -> None:
    assert opposite("Always mention risks.", "Never always mention risks.")
    assert opposite("Give medical advice.", "Don’t give medical advice.")
    assert not opposite("Do not lie.", "Never lie.")
    assert not opposite("Be brief.", "Do not preach.")


def test_the_bundled_constitution_has_no_errors_and_no_warnings() -> None:
    found = check_constitution(load_constitution("default"))
    assert {f.severity for f in found} == {"note"} and {f.kind for f in found} == {"same-level-conflict"}


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the development data")
def test_every_principle_of_the_bundled_constitution_applies_to_some_red_team_prompt() -> None:
    questions = json.loads((DATA / "redteam_prompts/catqa_english.json").read_text())
    rows = [Asked(q, (), None) for group in questions.values() for listed in group.values() for q in listed]
    with gzip.open(DATA / "xstest/xstest_prompts.jsonl.gz", "rt") as lines:
        rows += [Asked(json.loads(line)["prompt"], (), None) for line in lines]
    assert len(rows) > 700
    assert {f.severity for f in check_constitution(load_constitution("default"), rows)} == {"note"}


def test_differences() -> None:
    before = made(*SOUND)
    assert differences(before, made(*SOUND)) == []
    after = made({"id": "kind", "weight": 2, "exceptions": ["songs"]}, {"id": "short"},
                 {"id": "new", "level": "b", "statement": "Rhyme."}, defaults={"margin": 0.3})  # fmt: skip
    assert differences(before, after) == [
        "~ defaults.margin: 0.2 -> 0.3",
        "~ levels: a (strict) -> a (strict), b (strict)",
        f"- principle true: {TEXTS['true']}",
        "+ principle new: Rhyme.",
        "~ kind.weight: 1.0 -> 2.0",
        '+ kind.exceptions: "songs"',
    ]
    turned = made(*SOUND[::-1])
    assert differences(before, turned) == ["~ order of principles: kind, true, short -> short, true, kind"]
    doubled = made({"id": "kind", "exceptions": ["a", "b"]}), made({"id": "kind", "exceptions": ["b", "a"]})
    assert differences(*doubled) == ['~ kind.exceptions: ["a", "b"] -> ["b", "a"]']
    assert doubled[0].sha256 != doubled[1].sha256


def test_a_difference_in_hash_is_a_difference_in_lines() -> None:
    default = load_constitution("default")
    for p in default.principles:
        tree = default.model_dump(mode="json")
        next(q for q in tree["principles"] if q["id"] == p.id)["edge_cases"].append({"situation": "s", "guidance": "g"})
        changed = validated(tree, "t")
        assert changed.sha256 != default.sha256
        assert differences(default, changed) == [f'+ {p.id}.edge_cases: {{"situation": "s", "guidance": "g"}}']


def test_findings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        check_constitution(made({"id": "kind", "exemplars": []}))[0].kind = "x"  # type: ignore[misc]


def test_the_page_names_every_kind_of_finding() -> None:
    root = Path(__file__).parents[2]
    source = (root / "src/trueup/feedback/constitution_check.py").read_text()
    kinds_there = {kind for _, kind in re.findall(r'Finding\(\s*"(error|warning|note)",\s*"([a-z-]+)"', source)}
    assert len(kinds_there) >= 13
    page = (root / "docs/constitution.md").read_text().split("## check")[1].split("## import")[0]
    assert all(f"`{kind}`" in page for kind in {*kinds_there, "same-level-conflict", "conflict"})
