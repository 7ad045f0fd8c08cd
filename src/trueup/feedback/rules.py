"""Rules: functions from an answered prompt to a number.

A rule is any function ``rule(answered: Answered, **arguments) -> float``. The bundled ones stand here under their
names; one's own is named ``module:function`` and imported from the current folder or the Python path, because the user
named it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trueup.errors import ConfigError, ScoringError
from trueup.feedback.base import Answered

RuleFunction = Callable[..., float]

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?"
_FINAL = (re.compile(rf"####\s*\$?({_NUMBER})"), re.compile(rf"\\boxed\{{\s*\$?({_NUMBER})\s*\}}"))
_ANY = re.compile(_NUMBER)


def _right_answer(answered: Answered) -> str:
    right = answered.meta.get("answer")
    if right is None:
        raise KeyError("the prompt row has no field 'answer' to compare with")
    return str(right)


def final_number(text: str) -> float | None:
    r"""The number an answer ends on: after ``####``, in ``\boxed{}``, else the last one; None if there is none."""
    for form in _FINAL:
        if found := form.findall(text):
            return float(found[-1].replace(",", ""))
    found = _ANY.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def exact_number(answered: Answered, *, tolerance: float = 1e-6) -> float:
    """1 if the answer's final number equals that of the row's ``answer`` (arithmetic, GSM8K), else 0."""
    right = final_number(_right_answer(answered))
    if right is None:
        raise ValueError(f"the row's answer holds no number: {_right_answer(answered)!r}")
    given = final_number(answered.answer)
    return float(given is not None and abs(given - right) <= tolerance * max(1.0, abs(right)))


def exact_answer(answered: Answered) -> float:
    """1 if the answer is the row's ``answer``, blanks and case aside, else 0."""
    return float(_plain(answered.answer) == _plain(_right_answer(answered)))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def regex(answered: Answered, *, pattern: str, full: bool = False) -> float:
    """1 if the pattern is found in the answer (``full``: matches all of it), else 0."""
    found = re.fullmatch(pattern, answered.answer) if full else re.search(pattern, answered.answer)
    return float(found is not None)


def length_window(answered: Answered, *, low: int = 1, high: int = 80, slope: float = 0.05) -> float:
    """1 within ``low`` to ``high`` words; less by ``slope`` for every word beyond, down to −1."""
    words = len(answered.answer.split())
    outside = max(low - words, words - high, 0)
    return max(-1.0, 1.0 - slope * outside)


def json_format(answered: Answered, *, keys: Sequence[str] = ()) -> float:
    """1 if the answer is a JSON value (an object with all ``keys``, if any are given), else 0."""
    try:
        value = json.loads(answered.answer)
    except ValueError:
        return 0.0
    return float(not keys or (isinstance(value, dict) and all(k in value for k in keys)))


def tags(answered: Answered, *, names: Sequence[str] = ("think", "answer")) -> float:
    """1 if the answer is made of ``<name>...</name>`` in this order and nothing else, else 0."""
    form = r"\s*".join(rf"<{re.escape(n)}>.*?</{re.escape(n)}>" for n in names)
    return float(re.fullmatch(rf"\s*{form}\s*", answered.answer, re.DOTALL) is not None)


def keyword(answered: Answered, *, words: Sequence[str], want: str = "any") -> float:
    """1 if ``any``, ``all`` or ``none`` of the words occur in the answer (whole words, case aside), else 0."""
    there = [re.search(rf"\b{re.escape(w)}\b", answered.answer, re.IGNORECASE) is not None for w in words]
    if want not in ("any", "all", "none"):
        raise ValueError(f"want: {want!r} is none of any, all, none")
    return float({"any": any(there), "all": all(there), "none": not any(there)}[want])


def repetition(answered: Answered, *, n: int = 3) -> float:
    """Minus the share of the answer's word n-grams that occurred in it before; 0 is best, −1 worst."""
    words = answered.answer.casefold().split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return -(1 - len(set(grams)) / len(grams)) if grams else 0.0


RULES: dict[str, RuleFunction] = {
    rule.__name__: rule
    for rule in (exact_number, exact_answer, regex, length_window, json_format, tags, keyword, repetition)
}


class Rule:
    """A rule with its arguments, as a scorer.

    Args:
        name: of a bundled rule, or ``module:function``.
        arguments: keyword arguments of the function.

    Raises:
        ConfigError: no such rule, module or function; arguments that it does not take.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any] | None = None) -> None:
        self.name, self.arguments = name, dict(arguments or {})
        self.function = find_rule(name)
        try:
            inspect.signature(self.function).bind(None, **self.arguments)
        except TypeError as error:
            raise ConfigError(f"rule {name}: {error}; it is {name}{inspect.signature(self.function)}") from None

    @property
    def identity(self) -> str:
        """Name and arguments."""
        return f"rule:{self.name}({json.dumps(self.arguments, sort_keys=True, default=str)})"

    def score(self, answers: Sequence[Answered]) -> np.ndarray:
        """One number an answer, ``[n]``.

        Raises:
            ScoringError: the rule raised, or gave something that is no finite number.
        """
        return np.array([self._one(a) for a in answers], dtype=np.float64)

    def _one(self, answered: Answered) -> float:
        try:
            value = self.function(answered, **self.arguments)
        except Exception as error:  # whatever a user's function raises
            raise ScoringError(f"rule {self.name}: row {answered.id}: {type(error).__name__}: {error}") from error
        if isinstance(value, bool | np.bool_):
            return float(value)
        if not isinstance(value, int | float | np.integer | np.floating) or not math.isfinite(value):
            raise ScoringError(f"rule {self.name}: row {answered.id}: a finite number is expected, got {value!r}")
        return float(value)


def find_rule(name: str) -> RuleFunction:
    """A bundled rule, or the function that ``module:function`` names.

    Raises:
        ConfigError: there is none.
    """
    if ":" not in name:
        if name in RULES:
            return RULES[name]
        near = difflib.get_close_matches(name, RULES, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RULES)}"
        raise ConfigError(f"rule: {name!r} is no bundled rule; {hint} (one's own: module:function)")
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise ConfigError(f"rule {name}: the module cannot be imported: {error}") from None
    except AttributeError:
        raise ConfigError(f"rule {name}: {module} has no function {function!r}") from None
    if not inspect.isfunction(found):
        raise ConfigError(f"rule {name}: is not a function")
    return found
