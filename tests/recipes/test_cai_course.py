"""The constitution says how texts are made, and the command line may say otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from trueup.errors import ConfigError
from trueup.feedback.constitution import load_constitution, validated
from trueup.recipes.cai_course import Course, course_of

TREE: dict[str, Any] = {
    "version": 1, "name": "t", "levels": [{"name": "one", "kind": "strict"}],
    "principles": [{"id": "a", "level": "one", "statement": "Be brief."}],
    "defaults": {"revisions": 3, "temperature": 0.4}, "mix": {"ratio": 2.0, "helpfulness_data": "people.jsonl"},
}  # fmt: skip


def test_the_constitution_s_own() -> None:
    said = course_of(validated(TREE, "t"))
    assert said == Course(revisions=3, temperature=0.4, helpful="people.jsonl", ratio=2.0)


@pytest.mark.parametrize(
    ("name", "value"), [("revisions", 1), ("temperature", 0.0), ("helpful", "others.jsonl"), ("ratio", 0.0)]
)
def test_the_command_line_comes_first(name: str, value: Any) -> None:
    usual = course_of(validated(TREE, "t"))
    given = course_of(validated(TREE, "t"), **{name: value})
    assert getattr(given, name) == value
    assert all(getattr(given, n) == getattr(usual, n) for n in Course.__slots__ if n != name)


@pytest.mark.parametrize(("name", "value"), [("revisions", 0), ("temperature", -0.1), ("ratio", float("nan"))])
def test_numbers_that_make_no_sense(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^--{name}: "):
        course_of(load_constitution("default"), **{name: value})
