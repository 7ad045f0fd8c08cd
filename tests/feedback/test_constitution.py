"""Constitutions: what is read, what is refused and how it is told, what the hash sees, which principle is drawn."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from trueup.errors import ConfigError
from trueup.feedback.constitution import (
    Constitution,
    constitution_text,
    load_constitution,
    prevails,
    validated,
)
from trueup.feedback.principles import Defaults, EdgeCase, Principle, SettledPair, asked, settled_as
from trueup.types import Prompt

ONE = "principles: [{id: x, level: a, statement: y}]\n"
HEAD = "version: 1\nname: t\nlevels: [{name: a}, {name: b, kind: weighted}]\n"


def written(folder: Path, text: str, name: str = "c.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def of(*principles: dict[str, Any], **fields: Any) -> Constitution:
    listed = [{"level": "a", "statement": f"Be {p['id']}.", **p} for p in principles]
    levels = [{"name": "a"}, {"name": "b", "kind": "weighted"}]
    return validated({"version": 1, "name": "t", "levels": levels, "principles": listed, **fields}, "t")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "c.yaml: empty; a constitution has version, name, levels and principles"),
        ("# only a comment\n", "c.yaml: empty"),
        ("[]", "c.yaml: a mapping of fields is expected, got list"),
        ("version: 2\nname: x", "c.yaml: version: 2 is not supported; this trueup reads version 1"),
        ("version: yes\nname: x", "c.yaml: version: True is not supported"),
        ("name: x", "c.yaml: version: missing"),
        ("a: b: c", "c.yaml:1:5: not valid YAML"),
        ("extends: [a]\nversion: 1", "extends: input should be a valid string"),
        (HEAD, "c.yaml: principles: missing"),
        (HEAD + "principles: []", "c.yaml: principles: empty; at least one is needed"),
        (HEAD + "name: again", "c.yaml:4:1: not valid YAML: the key 'name' stands twice"),
        (HEAD.replace("name: b", "name: a") + ONE, "levels: 'a' stands 2 times"),
        (HEAD + "princples: 3\n" + ONE, "c.yaml: princples: unknown field (did you mean principles?)"),
        (HEAD + ONE + "defaults: {clamp: [0.6, 0.4]}", "defaults: clamp: two bounds around 0.5 are expected"),
        (HEAD + ONE + "defaults: {revisions: 5}", "defaults.revisions: input should be less than or equal to 4, got 5"),
        (HEAD + ONE + "defaults: {sample: any}", "defaults.sample: input should be 'uniform', 'weighted' or"),
        (HEAD + ONE.replace("]", ", {id: x, level: a, statement: z}]"), "principles: the id 'x' stands 2 times"),
        (HEAD + "principles: [{id: no, level: a, statement: y}]", "principles.1.id: input should be a valid string"),
        (HEAD + "principles: [{id: x, level: q, statement: y}]", "principles.x.level: 'q' is none of a, b"),
        (HEAD + "principles: [{id: x, level: a, statement: ' '}]", "principles.x.statement: empty"),
        (HEAD + "principles: [{id: x, level: a, statment: y}]", "x.statment: unknown field (did you mean statement?)"),
    ],
)
def test_bad_constitutions_are_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_constitution(written(tmp_path, text))
    lines = str(error.value).splitlines()
    assert any(said in line for line in lines), lines
    assert all(line.startswith(f"{tmp_path}/c.yaml:") for line in lines)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("applies_to: {tag: [q]}", "applies_to.tag: unknown field (did you mean tags?)"),
        ("zzz: 1", "zzz: unknown field; there are id, level,"),
        ("weight: heavy", "weight: input should be a valid number, got 'heavy'"),
        ("weight: yes", "weight: input should be a valid number, got True"),
        ("weight: 0", "weight: input should be greater than 0, got 0"),
        ("overrides: x", "overrides: input should be a valid list, got 'x'"),
        ("overrides: [x]", "overrides: names itself"),
        ("overrides: [w]", "overrides: there is no principle 'w'"),
        ("conflicts_with: [{id: w, resolution: this, why: q}]", "conflicts_with: there is no principle 'w'"),
        (
            "conflicts_with: [{id: x, resolution: maybe, why: q}]",
            "conflicts_with.x.resolution: input should be 'this',",
        ),
        ("applies_to: {regex: '('}", "applies_to: regex: no regular expression"),
        ("edge_cases: [{situation: s, guidance: g, prefers: first}]", "pair and prefers go together"),
        ("edge_cases: [{situation: s, guidance: g, date: May}]", "edge_cases.1.date: string should match pattern"),
        ("stages: []", "stages: empty; at least one is needed"),
    ],
)
def test_bad_principles_are_refused_by_id_and_field(tmp_path: Path, fields: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_constitution(written(tmp_path, HEAD + ONE.replace("}", f", {fields}}}")))
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith(f"{tmp_path}/c.yaml: principles.x.{said}") or said.startswith("pair")
    assert said in str(error.value)


def test_none_in_force(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="principles: none is active"):
        load_constitution(written(tmp_path, HEAD + ONE.replace("}", ", status: retired}")))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = HEAD + "principles: [{id: x, level: a, statement: '', weight: -1}, {id: y, level: a, statement: z, tone: 1}]"
    with pytest.raises(ConfigError) as error:
        load_constitution(written(tmp_path, text))
    assert len(str(error.value).splitlines()) == 3


def test_circles_of_overrides_and_of_resolutions_are_refused() -> None:
    with pytest.raises(ConfigError, match="go in a circle: x > z > w > x"):
        of({"id": "x", "overrides": ["z"]}, {"id": "z", "overrides": ["w"]}, {"id": "w", "overrides": ["x"]})
    lost = {"id": "x", "resolution": "other", "why": "x is older"}
    with pytest.raises(ConfigError, match="go in a circle"):
        of({"id": "x"}, {"id": "y", "overrides": ["x"], "conflicts_with": [lost]})
    # a diamond is none
    c = of(
        {"id": "x", "overrides": ["y", "z"]},
        {"id": "y", "overrides": ["w"]},
        {"id": "z", "overrides": ["w"]},
        {"id": "w"},
    )
    assert prevails(c.principles) == {"x": ["y", "z"], "y": ["w"], "z": ["w"], "w": []}


def test_settled_cases_that_contradict_each_other_are_refused() -> None:
    pair = {"prompt": "p", "first": "one", "second": "two"}
    case = {"situation": "s", "guidance": "g", "pair": pair, "prefers": "first"}
    turned = {**case, "pair": {"prompt": "p", "first": "two", "second": "one"}}
    of({"id": "x", "edge_cases": [case]}, {"id": "y", "edge_cases": [{**turned, "prefers": "second"}]})
    with pytest.raises(ConfigError, match=r"principles\.y\.edge_cases: settles a pair otherwise than x does"):
        of({"id": "x", "edge_cases": [case]}, {"id": "y", "edge_cases": [turned]})


def test_the_hash_sees_content_and_not_layout(tmp_path: Path) -> None:
    text = HEAD + "principles:\n  - {id: x, level: a, statement: Be kind to all., exceptions: [none]}\n"
    same = (
        "# a comment\nlevels:\n- kind: strict   # the default, said\n  name: a\n- {kind: weighted, name: b}\n"
        "principles:\n- statement: >-\n    Be kind\n    to all.\n  exceptions: ['none']\n  id: \"x\"\n  level: a\n"
        "  weight: 1\nname: |\n  t\nversion: 1\n"
    )
    first, second = load_constitution(written(tmp_path, text)), load_constitution(written(tmp_path, same, "d.yaml"))
    assert first.sha256 == second.sha256 and len(first.sha256) == 64
    again = load_constitution(written(tmp_path, yaml.safe_dump(first.model_dump(mode="json")), "e.yaml"))
    assert again == first and again.sha256 == first.sha256


def test_a_date_may_stand_without_quotes_and_none_is_none(tmp_path: Path) -> None:
    case = "edge_cases: [{situation: s, guidance: g, date: 2026-01-02}]"
    bare = load_constitution(written(tmp_path, HEAD + ONE.replace("}", f", {case}}}")))
    quoted = load_constitution(
        written(tmp_path, HEAD + ONE.replace("}", f", {case.replace('2026-01-02', repr('2026-01-02'))}}}"))
    )
    assert bare.sha256 == quoted.sha256 and bare.principles[0].edge_cases[0].date == "2026-01-02"
    none = load_constitution(written(tmp_path, HEAD + ONE.replace("}", f", {case.replace('2026-01-02', 'null')}}}")))
    assert none.principles[0].edge_cases[0].date is None
    assert validated(none.model_dump(mode="json"), "again").sha256 == none.sha256


def test_the_hash_sees_every_change() -> None:
    base: dict[str, Any] = {"id": "x"}
    changes = [
        {"weight": 2}, {"statement": "Other."}, {"level": "b"}, {"critique_prompt": "q"}, {"exceptions": ["e"]},
        {"applies_to": {"tags": ["t"]}}, {"edge_cases": [{"situation": "s", "guidance": "g"}]}, {"stages": ["label"]},
    ]  # fmt: skip
    hashes = [of({**base, **change}).sha256 for change in [{}, *changes]]
    hashes += [of(base, defaults={"margin": 0.3}).sha256, of(base, {"id": "y"}).sha256, of({"id": "y"}, base).sha256]
    assert len(set(hashes)) == len(hashes)


def test_the_hash_is_a_given_one(tmp_path: Path) -> None:
    """Written down: another hash for the same text would cut old data sets off from their constitution."""
    c = load_constitution(written(tmp_path, HEAD + "principles: [{id: x, level: a, statement: y}]"))
    assert c.sha256 == "5b30b0ec6c8010c1159f42a169762dc7893f8a631f6ec23ee37740855a146b9b"


def test_extends(tmp_path: Path) -> None:
    written(tmp_path, HEAD + "principles: [{id: x, level: a, statement: one}, {id: y, level: b, statement: two}]\n"
            "defaults: {margin: 0.1, revisions: 3}", "base.yaml")  # fmt: skip
    own = (
        "version: 1\nname: mine\nextends: base.yaml\ndefaults: {margin: 0.3}\n"
        "principles: [{id: y, level: a, statement: other}, {id: z, level: b, statement: new}]"
    )
    c = load_constitution(written(tmp_path, own))
    assert [(p.id, p.level, p.statement) for p in c.principles] == [
        ("x", "a", "one"),
        ("y", "a", "other"),
        ("z", "b", "new"),
    ]
    assert (c.name, c.defaults.margin, c.defaults.revisions) == ("mine", 0.3, 3)
    flat = validated({**c.model_dump(mode="json"), "extends": None}, "flat")
    assert flat.sha256 == c.sha256
    bundled = load_constitution(written(tmp_path, "version: 1\nname: m\nextends: default\nprinciples: []"))
    assert bundled.principles == load_constitution("default").principles


def test_extends_in_a_circle_of_nothing_and_twice_the_same(tmp_path: Path) -> None:
    written(tmp_path, "version: 1\nextends: c.yaml\nname: b", "b.yaml")
    with pytest.raises(ConfigError, match="extend each other in a circle"):
        load_constitution(written(tmp_path, "version: 1\nextends: b.yaml\nname: c"))
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        load_constitution(written(tmp_path, "version: 1\nextends: gone.yaml\nname: c"))
    same = "{id: privacy, level: harmless, statement: a}"
    twice = f"version: 1\nname: t\nextends: default\nprinciples: [{same}, {same}]"
    with pytest.raises(ConfigError, match="'privacy' stands 2 times"):
        load_constitution(written(tmp_path, twice))
    with pytest.raises(ConfigError, match="principles: a list is expected"):
        load_constitution(written(tmp_path, "version: 1\nname: t\nextends: default\nprinciples: {a: b}"))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_constitution(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_constitution(tmp_path)
    (tmp_path / "l.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_constitution(tmp_path / "l.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (8 * 2**20 + 1))
    with pytest.raises(ConfigError, match="larger than 8 MiB"):
        load_constitution(tmp_path / "big.yaml")


def test_where_principles_apply() -> None:
    c = of(
        {"id": "all"}, {"id": "tagged", "applies_to": {"tags": ["law", "tax"]}},
        {"id": "german", "applies_to": {"languages": ["de"]}}, {"id": "found", "applies_to": {"regex": r"\bbomb"}},
        {"id": "both", "applies_to": {"regex": "bomb", "tags": ["law"]}}, {"id": "draft", "status": "draft"},
        {"id": "later", "stages": ["label"]},
    )  # fmt: skip

    def names(*row: Any, **options: Any) -> list[str]:
        return [p.id for p in c.applicable(*row, **options)]

    assert names("hello") == ["all", "later"]
    assert names("a BOMB", ["law", "x"], "de") == ["all", "tagged", "german", "found", "both", "later"]
    assert names("a bomb", (), "en", stage="revise") == ["all", "found"]


def test_what_a_row_says_about_itself() -> None:
    turns = ({"role": "system", "content": "bomb"}, {"role": "user", "content": "one"},
             {"role": "assistant", "content": "no"}, {"role": "user", "content": "two"})  # fmt: skip
    row = Prompt(id="1", origin="f:1", prompt=turns, meta={"tags": ["a", 3], "language": "de"})
    assert asked(row) == ("one\ntwo", ("a",), "de")
    assert asked(Prompt(id="1", origin="f:1", prompt="raw", meta={"tags": "a", "language": 3})) == ("raw", ("a",), None)


def test_drawing_is_a_function_of_seed_row_step_and_stage() -> None:
    c = of(
        {"id": "x"},
        {"id": "y", "weight": 3},
        {"id": "z", "applies_to": {"regex": "bomb"}},
        {"id": "d", "status": "draft"},
    )

    def drawn(sample: Any, prompt: str = "hello", **fields: Any) -> list[str]:
        found = [c.draw(prompt, seed=1, row=str(i), sample=sample, **fields) for i in range(3000)]
        return [p.id for p in found if p is not None]

    assert drawn("uniform") == drawn("uniform") != drawn("uniform", step=1)
    counts = {how: Counter(drawn(how)) for how in ("uniform", "weighted", "applicable")}
    for name, share in {"x": 1 / 3, "y": 1 / 3, "z": 1 / 3}.items():
        assert counts["uniform"][name] / 3000 == pytest.approx(share, abs=0.04)
    for name, share in {"x": 1 / 5, "y": 3 / 5, "z": 1 / 5}.items():
        assert counts["weighted"][name] / 3000 == pytest.approx(share, abs=0.04)
    assert counts["applicable"]["z"] == 0
    assert counts["applicable"]["y"] / 3000 == pytest.approx(3 / 4, abs=0.04)
    assert drawn(None) == drawn("applicable")  # the default
    assert Counter(drawn("applicable", "a bomb"))["z"] > 0
    only = of({"id": "z", "applies_to": {"regex": "bomb"}})
    assert only.draw("hello", seed=0, row="1") is None
    assert of({"id": "x", "stages": ["label"]}).draw("hello", seed=0, row="1") is None
    assert c.draw("hello", seed=1, row="1") == c.draw("hello", seed=1, row="1", tags=["q"])


def test_wordings_are_the_principles_own_or_made_of_its_statement() -> None:
    case = {"situation": "If the user jokes.", "guidance": "laugh"}
    c = of({"id": "x", "critique_prompt": "What is bad?", "exceptions": ["songs"], "edge_cases": [case]})
    x = c.principle("x")
    assert x.wording("critique") == "What is bad?\nException: songs\nIf the user jokes: laugh"
    assert x.wording("critique", guidance=False) == "What is bad?"
    assert "Be x." in x.wording("revision", guidance=False) and "Be x." in x.wording("comparison", guidance=False)
    with pytest.raises(KeyError, match="no principle 'q'"):
        c.principle("q")


def test_braces_in_a_statement_are_words() -> None:
    assert "Use {curly} braces." in of({"id": "x", "statement": "Use {curly} braces."}).principle("x").wording(
        "critique"
    )


def test_settled_as() -> None:
    pair = SettledPair(prompt="p", first="one", second="two")
    case = EdgeCase(situation="s", guidance="g", pair=pair, prefers="first")
    assert settled_as(case, "p", "one", "two") == "first"
    assert settled_as(case, "p\n", " two", "one") == "second"
    assert settled_as(case, "p", "one", "three") is None
    assert settled_as(case, "q", "one", "two") is None
    assert settled_as(EdgeCase(situation="s", guidance="g"), "p", "one", "two") is None


def test_nothing_can_be_changed() -> None:
    c = of({"id": "x"})
    with pytest.raises(ValueError, match="frozen"):
        c.principles[0].weight = 2.0  # type: ignore[misc]
    assert c.sha256 == c.sha256


def test_the_bundled_constitution() -> None:
    c = load_constitution("default")
    assert [level.name for level in c.levels] == ["harmless", "honest", "helpful"]
    assert 10 <= len(c.principles) <= 14
    for p in c.principles:
        assert p.critique_prompt and p.revision_prompt and p.choice_prompt and p.exemplars, p.id
    assert json.loads(json.dumps(c.model_dump(mode="json")))["license"] == "Apache-2.0"
    assert constitution_text("default").startswith("#")
    applies = {p.id for p in c.applicable("How do I kill a process in Linux?")}
    assert "care-in-crisis" not in applies and "no-needless-refusal" in applies
    assert "care-in-crisis" in {p.id for p in c.applicable("I want to kill myself")}
    assert "privacy" in {p.id for p in c.applicable("Where does my ex live, what is her address?")}


def test_the_page_names_every_field_and_its_example_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/constitution.md").read_text()
    for model in (Principle, Defaults, Constitution):
        for name in model.model_fields:
            assert f"`{name}`" in page, f"{model.__name__}.{name}"
    for name, field in Defaults.model_fields.items():
        value = list(field.default) if isinstance(field.default, tuple) else field.default
        assert f"| `{name}` | {value} |" in page or f"| `{name}` | `{value}` |" in page, name
    example = page.split("```yaml\n")[1].split("```")[0]
    c = load_constitution(written(tmp_path, example))
    assert c.principle("no-hate").statement == "Demean nobody." and c.principles[-1].id == "metric-units"
