"""What is doubtful about a constitution that can be read: a finding each, with where and what to do."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from trueup.feedback.aggregate import declared
from trueup.feedback.constitution import Constitution, prevails
from trueup.feedback.principles import Asked, Principle, Stage

SIMILAR = 0.9
Severity = Literal["error", "warning", "note"]
_NEGATION = re.compile(
    r"\b(?:do not|does not|not|never|no|none|don't|doesn't|avoid|without|refrain from|cannot|can't)\b"
)
_WORD = re.compile(r"[\w']+")


@dataclass(frozen=True, slots=True)
class Finding:
    """One doubt.

    Attributes:
        severity: an ``error`` contradicts itself; a ``warning`` should be looked at; a ``note`` is for information.
        kind: stable name of the check.
        where: ids of the principles or levels.
        text: what is found, and the remedy.
    """

    severity: Severity
    kind: str
    where: tuple[str, ...]
    text: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def line(self) -> str:
        """In one line."""
        return f"{self.severity}: {self.kind}: {', '.join(self.where) or 'constitution'}: {self.text}"


def check_constitution(
    constitution: Constitution, prompts: Sequence[Asked] | None = None, *, similar: float = SIMILAR
) -> list[Finding]:
    """Every doubt, errors first.

    What makes a constitution unusable (ids that stand twice, circles of overrides, unknown fields) has been refused
    when it was read.

    Args:
        constitution: read by :func:`~trueup.feedback.constitution.load_constitution`.
        prompts: to see which principles apply to none of them; None: not looked at.
        similar: two statements more alike than this are near-duplicates.
    """
    found = [
        *_contradictory(constitution), *_declared(constitution), *_alike(constitution, similar),
        *_wordings(constitution), *_unsigned(constitution), *_structure(constitution),
        *(_coverage(constitution, prompts) if prompts is not None else ()),
    ]  # fmt: skip
    rank = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda f: rank[f.severity])


def likeness(a: str, b: str) -> float:
    """2 M / T over the words of two texts, case and punctuation aside; M words match in order, T are in both (0 to 1).

    Ratcliff and Metzener's ratio as in :mod:`difflib`, the larger of both directions.
    """
    x, y = _WORD.findall(a.casefold()), _WORD.findall(b.casefold())
    if len(x) + len(y) == 0:
        return 1.0
    most = 2 * sum((Counter(x) & Counter(y)).values()) / (len(x) + len(y))
    if most <= 0.5:
        return most  # an upper bound, and far from alike
    return max(difflib.SequenceMatcher(None, p, q, autojunk=False).ratio() for p, q in ((x, y), (y, x)))


def opposite(a: str, b: str, similar: float = SIMILAR) -> bool:
    """Whether two statements say the same but that one of them negates it: "Be brief." and "Do not be brief."."""
    a, b = a.casefold().replace("’", "'"), b.casefold().replace("’", "'")
    odd = (len(_NEGATION.findall(a)) - len(_NEGATION.findall(b))) % 2 == 1
    return odd and likeness(_NEGATION.sub(" ", a), _NEGATION.sub(" ", b)) > similar


def _contradictory(c: Constitution) -> list[Finding]:
    """A conflict that is declared twice, each time otherwise; an override of what is to be weighed or asked."""
    above = prevails(c.principles)
    found: list[Finding] = []
    said: dict[frozenset[str], tuple[str, str]] = {}
    for p in c.principles:
        for other in p.conflicts_with:
            winner = {"this": p.id, "other": other.id}.get(other.resolution, other.resolution)
            before = said.setdefault(frozenset((p.id, other.id)), (p.id, winner))
            where = (p.id, other.id)
            if before[1] != winner:
                found.append(Finding("error", "contradiction", where, f"their conflict is resolved as {winner!r} here "
                                     f"and as {before[1]!r} under {before[0]}; keep one"))  # fmt: skip
            elif winner in ("weigh", "person") and (other.id in above[p.id] or p.id in above[other.id]):
                found.append(Finding("error", "contradiction", where, f"the conflict says {winner!r}, and an override "
                                     "decides it; keep one"))  # fmt: skip
    return found


def _declared(c: Constitution) -> list[Finding]:
    """Conflicts that the file declares, and overrides that turn the order of levels round."""
    rank, found = {level.name: i for i, level in enumerate(c.levels)}, list[Finding]()
    ends = {"weigh": "nothing resolves it: their weights do", "person": "every such pair waits for a person"}
    for a, b, conflict in declared(c):
        same = c.principle(a).level == c.principle(b).level
        winner = {"this": a, "other": b}.get(conflict.resolution)
        kind = "same-level-conflict" if same else "conflict"
        text = f"{winner} prevails ({conflict.why})" if winner else f"{ends[conflict.resolution]} ({conflict.why})"
        found.append(Finding("note" if winner else "warning", kind, (a, b), f"declared; {text}"))
    inactive = {p.id: p.status for p in c.principles if p.status != "active"}
    for above, others in prevails(c.principles).items():
        for other in others:
            if above in inactive or other in inactive:
                name = above if above in inactive else other
                found.append(Finding("warning", "no-effect", (above, other), f"{name} is {inactive[name]}: "
                                     "what is declared between them has no effect"))  # fmt: skip
            elif rank[c.principle(above).level] > rank[c.principle(other).level]:
                found.append(Finding("warning", "against-order", (above, other), f"{above} is of a lower level than "
                                     f"{other} and still sets it aside"))  # fmt: skip
    return found


def _alike(c: Constitution, similar: float) -> list[Finding]:
    found: list[Finding] = []
    for a, b in combinations([p for p in c.principles if p.status != "retired"], 2):
        # with the negations aside, opposites are alike; so they are looked for first
        if opposite(a.statement, b.statement, similar):
            same = f"both of level {a.level}" if a.level == b.level else f"of levels {a.level} and {b.level}"
            found.append(Finding("warning", "opposites", (a.id, b.id), f"one negates what the other says, {same}; "
                                 "drop one, or declare which prevails"))  # fmt: skip
        elif (how := likeness(a.statement, b.statement)) > similar:
            found.append(Finding("warning", "near-duplicate", (a.id, b.id), f"their statements are {how:.0%} alike; "
                                 "it counts twice in every label"))  # fmt: skip
    return found


def _wordings(c: Constitution) -> list[Finding]:
    found: list[Finding] = []
    for p in c.active():
        missing = _missing_wordings(p)
        if missing:
            found.append(Finding("warning", "wording", (p.id,), f"no {', '.join(missing)}; made of the statement"))
        if "revise" in p.stages and not p.exemplars:
            found.append(Finding("warning", "exemplar", (p.id,), "no exemplar; small models revise poorly without one"))
    return found


def _unsigned(c: Constitution) -> list[Finding]:
    return [
        Finding("warning", "unsigned", (p.id,), f"settles a pair without author or date: {case.situation[:60]!r}")
        for p in c.active() for case in p.edge_cases if case.pair and not (case.author and case.date)
    ]  # fmt: skip


def _missing_wordings(p: Principle) -> list[str]:
    wanted: list[tuple[str, str | None]] = []
    if "revise" in p.stages:
        wanted += [("critique_prompt", p.critique_prompt), ("revision_prompt", p.revision_prompt)]
    if "label" in p.stages:
        wanted.append(("choice_prompt", p.choice_prompt))
    return [name for name, text in wanted if text is None]


def _structure(c: Constitution) -> list[Finding]:
    used = {p.level for p in c.active()}
    found = [
        Finding("warning", "empty-level", (level.name,), "no principle in force is of this level")
        for level in c.levels if level.name not in used
    ]  # fmt: skip
    stages: tuple[Stage, ...] = ("revise", "label")
    found += [
        Finding("warning", "stage", (s,), "no principle in force takes part in this stage")
        for s in stages if not c.active(s)
    ]  # fmt: skip
    found += [
        Finding("note", "status", (p.id,), f"{p.status}: takes no part") for p in c.principles if p.status != "active"
    ]
    if c.defaults.decide == "one" and any(prevails(c.principles).values()):
        found.append(Finding("note", "no-effect", (), "defaults.decide is one: levels, overrides and conflicts take no "
                             "part in labels"))  # fmt: skip
    return found


def _coverage(c: Constitution, prompts: Sequence[Asked]) -> list[Finding]:
    counts = {p.id: sum(p.applies_to.matches(*row) for row in prompts) for p in c.active()}
    found = [
        Finding("warning", "applies-to-nothing", (name,), f"applies to none of {len(prompts)} prompts")
        for name, count in counts.items() if count == 0
    ]  # fmt: skip
    bare = sum(not c.applicable(*row) for row in prompts)
    if bare:
        found.append(Finding("warning", "uncovered", (), f"no principle applies to {bare} of {len(prompts)} prompts"))
    some = {name: count for name, count in counts.items() if 0 < count < len(prompts)}
    found += [
        Finding("note", "coverage", (name,), f"applies to {count} of {len(prompts)} prompts")
        for name, count in some.items()
    ]
    return found
