"""The parts of a constitution: levels of priority, principles with their wordings, exceptions and settled cases."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from trueup.types import Prompt

Stage: TypeAlias = Literal["revise", "label"]
Sample: TypeAlias = Literal["uniform", "weighted", "applicable"]
Wording: TypeAlias = Literal["critique", "revision", "comparison"]
Prefers: TypeAlias = Literal["first", "second", "neither"]

DEFAULT_WORDINGS: dict[Wording, str] = {
    "critique": "Name, with quotations, every way in which the assistant's last answer goes against this principle: "
    "{statement}",
    "revision": "Rewrite the assistant's last answer so that it follows this principle, and keep all that was good in "
    "it: {statement}",
    "comparison": "Which of the two answers follows this principle better? {statement}",
}


def _date(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.date) else value


Text: TypeAlias = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Date: TypeAlias = Annotated[str, BeforeValidator(_date), Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Number: TypeAlias = Annotated[float, Field(strict=True)]  # no text, no yes or no
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


class Part(BaseModel):
    """Base of every part: frozen, unknown fields are refused, no value is bent into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Level(Part):
    """A rung of the order of priority; the first of the list is the highest."""

    name: Name
    kind: Literal["strict", "weighted"] = "strict"


class AppliesTo(Part):
    """Where a principle applies: every condition that is given must hold; none given: everywhere.

    A row without tags, or of unknown language, does not meet a condition on them.
    """

    tags: tuple[Text, ...] = ()
    languages: tuple[Text, ...] = ()
    regex: str | None = None

    @model_validator(mode="after")
    def _compiles(self) -> AppliesTo:
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"regex: no regular expression: {error}") from None
        return self

    def matches(self, prompt: str, tags: Collection[str] = (), language: str | None = None) -> bool:
        """Whether a prompt meets every condition; the expression is searched for anywhere, case aside."""
        if self.tags and not set(self.tags) & set(tags):
            return False
        if self.languages and language not in self.languages:
            return False
        return self.regex is None or re.search(self.regex, prompt, re.IGNORECASE) is not None


class Asked(NamedTuple):
    """What decides which principles apply to a prompt: arguments of :meth:`AppliesTo.matches`, in order."""

    prompt: str
    tags: tuple[str, ...]
    language: str | None


def asked(row: Prompt) -> Asked:
    """Of a row: the words of its user turns (or its raw text), and its fields ``tags`` and ``language``.

    ``tags`` is a list of texts, or one text; anything else counts as none, as does a language that is no text.
    """
    turns = row.prompt
    said = turns if isinstance(turns, str) else "\n".join(t["content"] for t in turns if t["role"] == "user")
    tags, language = row.meta.get("tags"), row.meta.get("language")
    given = (tags,) if isinstance(tags, str) else tags if isinstance(tags, list | tuple) else ()
    return Asked(said, tuple(t for t in given if isinstance(t, str)), language if isinstance(language, str) else None)


class SettledPair(Part):
    """The two answers that a person decided between, word for word."""

    prompt: Text
    first: Text
    second: Text


class EdgeCase(Part):
    """Guidance for a situation that the statement leaves open; with a pair, a case that a person settled.

    Guidance is told to whoever critiques, revises or compares. A pair's preference is the label of that very pair.
    """

    situation: Text
    guidance: Text
    author: Text | None = None
    date: Date | None = None
    pair: SettledPair | None = None
    prefers: Prefers | None = None

    @model_validator(mode="after")
    def _whole(self) -> EdgeCase:
        if (self.pair is None) != (self.prefers is None):
            raise ValueError("pair and prefers go together: a settled pair says which answer it prefers")
        return self


class Exemplar(Part):
    """A worked revision: what the critique finds in a bad answer, and a good one."""

    prompt: Text
    bad: Text
    critique: Text
    good: Text


class Conflict(Part):
    """A declared conflict with another principle, and what holds where both are clear and disagree.

    Resolution: ``this`` prevails, the ``other`` prevails, they are weighed (``weigh``) as if nothing were declared, or
    a ``person`` decides: the pair stays without a label and joins the queue.
    """

    id: Name
    resolution: Literal["this", "other", "weigh", "person"]
    why: Text


class Principle(Part):
    """One principle. Wordings that are not given are made of the statement."""

    id: Name
    level: Name
    weight: Annotated[Number, Field(gt=0)] = 1.0
    statement: Text
    critique_prompt: Text | None = None
    revision_prompt: Text | None = None
    choice_prompt: Text | None = None
    applies_to: AppliesTo = AppliesTo()
    exceptions: tuple[Text, ...] = ()
    edge_cases: tuple[EdgeCase, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()
    overrides: tuple[Name, ...] = ()
    conflicts_with: tuple[Conflict, ...] = ()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = ("revise", "label")
    status: Literal["active", "draft", "retired"] = "active"

    def wording(self, kind: Wording, *, guidance: bool = True) -> str:
        """The request for a critique, a revision or a comparison, in one text.

        Args:
            kind: of the request.
            guidance: append exceptions and edge cases, a line each.
        """
        own = {"critique": self.critique_prompt, "revision": self.revision_prompt, "comparison": self.choice_prompt}
        text = own[kind] or DEFAULT_WORDINGS[kind].format(statement=self.statement)
        return "\n".join([text, *(self.guidance if guidance else ())])

    @property
    def guidance(self) -> tuple[str, ...]:
        """Exceptions and edge cases, a line each."""
        told = [f"Exception: {e}" for e in self.exceptions]
        return (*told, *(f"If {_inline(c.situation)}: {c.guidance}" for c in self.edge_cases))


def _inline(situation: str) -> str:
    return re.sub(r"^if\s+", "", situation.rstrip(".:"), flags=re.IGNORECASE)


class Defaults(Part):
    """What the pipeline does where its command line says nothing.

    Attributes:
        revisions: critique-revision rounds a prompt.
        sample: how a principle is drawn.
        temperature: of drafts, critiques, revisions and answers. At 1 small models talk nonsense.
        label: soft probabilities, hard 0 and 1, or soft ones clamped. Labels made with chain of thought are clamped
            unless they are hard.
        clamp: bounds of clamped labels.
        margin: a verdict p is clear if |2p − 1| exceeds this.
        decide: every applicable principle (``all``), or one drawn at random as in the paper (``one``).
    """

    revisions: Annotated[int, Field(strict=True, ge=1, le=4)] = 2
    sample: Sample = "applicable"
    temperature: Annotated[Number, Field(ge=0)] = 0.7
    label: Literal["soft", "hard", "clamped"] = "soft"
    clamp: tuple[Number, Number] = (0.4, 0.6)
    margin: Annotated[Number, Field(ge=0, lt=1)] = 0.2
    decide: Literal["all", "one"] = "all"

    @model_validator(mode="after")
    def _bounds(self) -> Defaults:
        low, high = self.clamp
        if not 0 <= low <= 0.5 <= high <= 1:
            raise ValueError(f"clamp: two bounds around 0.5 are expected, got {[low, high]}")
        return self


class Mix(Part):
    """Helpfulness data mixed in: so many rows of it, where there is some, for each row that the constitution made."""

    helpfulness_data: Text | None = None
    ratio: Annotated[Number, Field(ge=0)] = 0.5


def settled_as(case: EdgeCase, prompt: str, first: str, second: str) -> Prefers | None:
    """What a settled case says of this pair, whichever order it was settled in; None if it is another pair's."""
    if case.pair is None or case.prefers is None or case.pair.prompt != prompt.strip():
        return None
    told, shown = (case.pair.first, case.pair.second), (first.strip(), second.strip())
    if told == shown:
        return case.prefers
    swapped: dict[Prefers, Prefers] = {"first": "second", "second": "first", "neither": "neither"}
    return swapped[case.prefers] if told == shown[::-1] else None
