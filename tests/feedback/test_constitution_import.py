"""Released lists of principles become constitutions: each shape in small, and the files themselves where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trueup.errors import ConfigError
from trueup.feedback.constitution import Constitution, load_constitution, validated
from trueup.feedback.constitution_import import import_principles, to_yaml

PRINCIPLES = Path(__file__).parents[2].parent / "shared/data/principles"
REQUESTS = {
    "first": {
        "prompt": ["\n\nCritiqueRequest: What is rude?\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Be polite.\n\nRevision:",
    },
    "second": {
        "prompt": ["\n\nCritiqueRequest: What is false?\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Be true.\n\nRevision:",
    },
}
CHOICES = ["\nWhich is more polite? Options:", "\nWhich is truer? Options:"]
DIALOGUE = (
    "\n\nHuman: Why?\n\nAssistant: Because, fool.\n\nCritiqueRequest: What is false?\n\nCritique: Nothing.\n\n"
    "RevisionRequest: Be true.\n\nRevision: Because."
)


def imported(folder: Path, content: Any, name: str = "list.json") -> Constitution:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return reread(import_principles(path), folder)


def reread(tree: dict[str, Any], folder: Path) -> Constitution:
    """What is written says what was imported."""
    target = folder / "out.yaml"
    target.write_text(to_yaml(tree))
    read = load_constitution(target)
    assert read.sha256 == validated(tree, "tree").sha256
    return read


def test_critique_and_revision_requests(tmp_path: Path) -> None:
    c = imported(tmp_path, REQUESTS)
    assert [(p.id, p.critique_prompt, p.revision_prompt, p.stages) for p in c.principles] == [
        ("first", "What is rude?", "Be polite.", ("revise",)),
        ("second", "What is false?", "Be true.", ("revise",)),
    ]


def test_comparison_requests(tmp_path: Path) -> None:
    c = imported(tmp_path, CHOICES)
    assert [(p.id, p.choice_prompt, p.stages) for p in c.principles] == [
        ("choice0", "Which is more polite?", ("label",)),
        ("choice1", "Which is truer?", ("label",)),
    ]
    assert c.levels[0].kind == "weighted"


def test_a_folder_of_the_paper_is_joined_and_dialogues_go_to_the_principle_they_ask_about(tmp_path: Path) -> None:
    folder = tmp_path / "paper"
    folder.mkdir()
    for name, content in (("a", [DIALOGUE, DIALOGUE.replace("false", "odd")]), ("b", REQUESTS), ("c", CHOICES)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    c = reread(import_principles(folder), tmp_path)
    assert [p.id for p in c.principles] == ["first", "second", "choice0", "choice1"]
    example = c.principle("second").exemplars[0]
    assert (example.prompt, example.bad, example.critique, example.good) == (
        "Why?",
        "Because, fool.",
        "Nothing.",
        "Because.",
    )
    assert len(c.principle("second").exemplars) == len(c.principle("first").exemplars) == 1
    assert [p.id for p in c.active("revise")] == ["first", "second"]
    assert [p.id for p in c.active("label")] == ["choice0", "choice1"]


def test_pairs_of_critic_and_revision(tmp_path: Path) -> None:
    said = ["Why?", "Because, fool.", "What is rude?", "fool", "Be polite.", "Because."]
    talk = [{"role": "user", "content": s} for s in said]
    c = imported(tmp_path, {"constitutions": [{"critic": "c", "revision": "r"}], "system_chat": [talk, talk[:2]]})
    assert c.principles[0].critique_prompt == "c" and c.principles[0].stages == ("revise", "label")
    assert [e.good for e in c.principles[0].exemplars] == ["Because."]


def test_dimensions_with_weights_and_ids_that_stand_twice(tmp_path: Path) -> None:
    listed = [
        {"dimension": "Être bref!", "definition": "d", "weight": 3},
        {"dimension": "tre bref", "definition": "e", "weight": 0},
    ]
    c = imported(tmp_path, listed)
    assert [(p.id, p.weight, p.statement) for p in c.principles] == [
        ("tre-bref", 3, "Être bref!: d"),
        ("tre-bref-2", 1, "tre bref: e"),
    ]


def test_numbered_rules_in_text(tmp_path: Path) -> None:
    c = imported(tmp_path, "# Rules\n\n1 (ethical). Do good.\n2 (open minded). Listen.\n\nnot 3 (this). one\n", "r.txt")
    assert [(p.id, p.statement) for p in c.principles] == [("ethical", "Do good."), ("open-minded", "Listen.")]


def test_sections_with_an_authority_become_levels_in_order(tmp_path: Path) -> None:
    text = (
        "# Preface {#preface}\n\nWords.\n\n## Be kind {#be_kind authority=guideline}\n\nAlways[^1] *be* kind.\n"
        "### Obey {#obey authority=root .x}\n\n- a list\n\nFirst **the** law.\n## Odd {#odd authority=none}\n\nNo.\n"
    )
    c = imported(tmp_path, text, "spec.md")
    assert [(level.name, level.kind) for level in c.levels] == [("root", "strict"), ("guideline", "strict")]
    assert [(p.id, p.level, p.statement) for p in c.principles] == [
        ("be-kind", "guideline", "Be kind. Always be kind."),
        ("obey", "root", "Obey. First the law."),
    ]


@pytest.mark.parametrize(
    "content", [[], {}, {"a": 1}, ["no end"], [1], {"constitutions": 1}, "just words", [{"dimension": "x"}], 3, None]
)
def test_other_shapes_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ConfigError, match="no known shape of a list of principles"):
        imported(tmp_path, content, "x.txt" if isinstance(content, str) else "x.json")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \.json file in this folder"):
        import_principles(tmp_path)
    with pytest.raises(ConfigError, match="not valid JSON"):
        imported(tmp_path, "{", "x.json")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        import_principles(tmp_path / "none.json")
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "x.json").write_text("[]")
    with pytest.raises(ConfigError, match="no file of a known shape in it"):
        import_principles(folder)


@pytest.mark.skipif(not PRINCIPLES.is_dir(), reason="needs the development data")
@pytest.mark.parametrize(
    ("name", "count", "levels"),
    [
        ("cai_paper", 32, 1), ("cai_paper/CritiqueRevisionInstructions.json", 16, 1),
        ("cai_paper/RLMadisonInstructions.json", 16, 1), ("llm_swarm/constitution_anthropic.json", 16, 1),
        ("llm_swarm/constituion_grok.json", 2, 1), ("salmon/principle_collection_harmless.json", 11, 1),
        ("salmon/principle_collection_ppo.json", 14, 1), ("salmon/principle_collection_rm.json", 11, 1),
        ("dromedary/watson_self_align_prompt.txt", 17, 1), ("openai_model_spec.md", 59, 5),
    ],
)  # fmt: skip
def test_the_released_lists(tmp_path: Path, name: str, count: int, levels: int) -> None:
    c = reread(import_principles(PRINCIPLES / name), tmp_path)
    assert (len(c.principles), len(c.levels)) == (count, levels)
    for p in c.principles:
        for text in (p.statement, p.critique_prompt, p.revision_prompt, p.choice_prompt):
            assert text is None or not any(mark in text for mark in ("Request:", "Options:", "Critique:", "Revision:"))
    if name == "cai_paper":
        raw = json.loads((PRINCIPLES / name / "CritiqueRevisionInstructions.json").read_text())
        for key, entry in raw.items():
            assert f"CritiqueRequest: {c.principle(key).critique_prompt}\n" in entry["prompt"][0]
            assert f"RevisionRequest: {c.principle(key).revision_prompt}\n" in entry["edit_request"]
        choices = json.loads((PRINCIPLES / name / "RLMadisonInstructions.json").read_text())
        assert [f"\n{p.choice_prompt} Options:" for p in c.active("label")] == choices
        assert sum(len(p.exemplars) for p in c.principles) == 5
