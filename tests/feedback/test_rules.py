"""Rules and their combinations, by hand; and what a rule that misbehaves is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trueup.errors import ConfigError, ScoringError
from trueup.feedback.base import Answered
from trueup.feedback.combine import Ensemble, WeightedSum
from trueup.feedback.parse import open_scorer
from trueup.feedback.rules import RULES, Rule


def answered(answer: str, right: Any = None) -> Answered:
    return Answered(id="r1", prompt="p", answer=answer, meta={} if right is None else {"answer": right})


WORKED: list[tuple[str, dict[str, Any], str, Any, float]] = [
    ("exact_number", {}, "7 + 5 = 12, so 12.", "12", 1.0),
    ("exact_number", {}, "12 is wrong, it is 13", 12, 0.0),
    ("exact_number", {}, "so #### 1,250", "She has 1000 + 250.\n#### 1250", 1.0),
    ("exact_number", {}, r"hence \boxed{-3.5} (not 4)", "-3.5", 1.0),
    ("exact_number", {}, "no idea", "4", 0.0),
    ("exact_number", {"tolerance": 0.01}, "3.14", "3.1415", 1.0),
    ("exact_answer", {}, "  New  York ", "new york", 1.0),
    ("exact_answer", {}, "New York City", "new york", 0.0),
    ("regex", {"pattern": r"\d{3}"}, "a 123 b", None, 1.0),
    ("regex", {"pattern": r"\d{3}", "full": True}, "a 123 b", None, 0.0),
    ("length_window", {"low": 2, "high": 4}, "one two three", None, 1.0),
    ("length_window", {"low": 2, "high": 4, "slope": 0.1}, "a b c d e f", None, 0.8),
    ("length_window", {"low": 5, "high": 9, "slope": 0.5}, "", None, -1.0),
    ("json_format", {}, '{"a": 1}', None, 1.0),
    ("json_format", {"keys": ["a", "b"]}, '{"a": 1}', None, 0.0),
    ("json_format", {}, "{a: 1}", None, 0.0),
    ("tags", {}, "<think>x</think>\n<answer>y</answer>", None, 1.0),
    ("tags", {}, "<answer>y</answer>", None, 0.0),
    ("keyword", {"words": ["yes", "no"]}, "No, thanks", None, 1.0),
    ("keyword", {"words": ["yes", "no"], "want": "all"}, "No, thanks", None, 0.0),
    ("keyword", {"words": ["not"], "want": "none"}, "a knot", None, 1.0),
    ("repetition", {"n": 2}, "a b a b a b", None, -0.6),
    ("repetition", {}, "a b", None, 0.0),
]


@pytest.mark.parametrize(("name", "arguments", "answer", "right", "value"), WORKED)
def test_worked_values(name: str, arguments: dict[str, Any], answer: str, right: Any, value: float) -> None:
    assert Rule(name, arguments).score([answered(answer, right)]).tolist() == pytest.approx([value])


def test_every_rule_has_a_worked_value() -> None:
    assert {w[0] for w in WORKED} == set(RULES)


USER = """
def shout(answered, *, factor=1.0):
    return factor * sum(c.isupper() for c in answered.answer)

def breaks(answered):
    return answered.meta["missing"]

def silent(answered):
    return None

def infinite(answered):
    return float("inf")

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_rules_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_rule_of_ones_own(own: str) -> None:
    rule = open_scorer({"rule": f"{own}:shout", "arguments": {"factor": 2.0}})
    assert rule.score([answered("aBC"), answered("d")]).tolist() == [4.0, 0.0]
    assert "factor" in rule.identity
    assert open_scorer(f"{own}:shout").score([answered("A")]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("function", "said"),
    [("breaks", "row r1: KeyError: 'missing'"), ("silent", "row r1: a finite number is expected, got None"),
     ("infinite", "got inf")],
)  # fmt: skip
def test_a_rule_that_misbehaves_is_an_error_and_never_a_zero(own: str, function: str, said: str) -> None:
    with pytest.raises(ScoringError, match=said):
        open_scorer(f"{own}:{function}").score([answered("x")])


@pytest.mark.parametrize(
    ("spec", "said"),
    [("rule:exact_numbr", "did you mean exact_number"), ("nowhere_at_all:f", "cannot be imported"),
     ("json:nothing", "json has no function 'nothing'"), ("json:decoder", "is not a function"),
     ({"rule": "regex"}, "pattern"), ({"rule": "regex", "argument": {}}, "did you mean arguments"),
     ({"rul": "regex"}, "names none of"), ({"sum": []}, "a list of scorers"), ("length_window", "rule:length_window"),
     ({"ensemble": ["rule:repetition"], "how": "median"}, "none of mean, min"),
     ({"sum": [{"rule": "repetition", "weight": "2"}]}, "a number is expected")],
)  # fmt: skip
def test_specifications_that_cannot_be_used(spec: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_scorer(spec)


def test_a_row_without_the_right_answer_is_an_error() -> None:
    with pytest.raises(ScoringError, match="no field 'answer'"):
        Rule("exact_number").score([answered("3")])


class Fixed:
    def __init__(self, *values: float) -> None:
        self.values, self.identity = values, f"fixed{values}"

    def score(self, answers: Any) -> np.ndarray:
        return np.array(self.values[: len(answers)])


def test_sums_and_ensembles_by_hand() -> None:
    two = [answered("a"), answered("b")]
    a, b = Fixed(1.0, 5.0), Fixed(3.0, 5.0)
    assert WeightedSum([(a, 2.0), (b, -1.0)]).score(two).tolist() == [-1.0, 5.0]
    assert Ensemble([a, b]).score(two).tolist() == [2.0, 5.0]
    assert Ensemble([a, b], "min").score(two).tolist() == [1.0, 5.0]
    assert Ensemble([a, b], "mean_minus_variance", 0.5).score(two).tolist() == [1.5, 5.0]
    assert Ensemble([a, b]).members(two).tolist() == [[1.0, 5.0], [3.0, 5.0]]
    assert WeightedSum([(a, 2.0), (b, -1.0)]).identity != WeightedSum([(a, 1.0), (b, -1.0)]).identity


def test_a_sum_from_a_config() -> None:
    spec = {"sum": [{"rule": "keyword", "arguments": {"words": ["yes"]}, "weight": 2}, "rule:repetition"]}
    assert open_scorer(spec).score([answered("yes yes yes yes")]).tolist() == pytest.approx([1.5])
