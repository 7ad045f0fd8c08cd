"""Principles that disagree: how often and by how much, which pairs a person should settle, what each one changes.

All of it is computed from the verdicts of every principle on every pair; no model is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from trueup.feedback.aggregate import Decision, Pair, Verdicts, decide, opposed, settled_case
from trueup.feedback.constitution import Constitution, prevails
from trueup.ops.constitutional import disagreement

ALARM = 0.1  # share of pairs on which two principles of one level disagree clearly, from above which there is an alarm
Table = Mapping[str, Verdicts]  # row id -> principle id -> verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A pair on which two principles disagree clearly."""

    row: str
    p_first: float
    p_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """One cell of the matrix of principle against principle.

    Attributes:
        first, second: their ids, in order of the file.
        levels: their levels.
        pairs: judged under both.
        disagree: share of these on which they prefer different answers, both beyond the margin.
        opposite: share on which they prefer different answers at all.
        phi: correlation of their preferences; nan where undefined.
        gap: mean of |p_i − p_j|.
        declared: how the constitution resolves it (``overrides``, or a declared resolution); None: it says nothing.
        alarm: of one level, and they disagree on more than :data:`ALARM` of the pairs.
        examples: those furthest apart.
    """

    first: str
    second: str
    levels: tuple[str, str]
    pairs: int
    disagree: float
    opposite: float
    phi: float
    gap: float
    declared: str | None
    alarm: bool
    examples: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; what is undefined is null."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}

    def line(self) -> str:
        """In one line."""
        if not self.pairs:
            return f"{self.first} against {self.second}: no pair judged under both"
        phi = "undefined" if math.isnan(self.phi) else f"{self.phi:+.2f}"
        said = f", declared: {self.declared}" if self.declared else ""
        return (
            f"{self.first} against {self.second}: disagree clearly on {self.disagree:.1%} of {self.pairs} pairs, "
            f"phi {phi}, mean gap {self.gap:.2f}{said}{'  ALARM' if self.alarm else ''}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contested:
    """A pair on which principles disagree clearly and nothing in the constitution says which prevails.

    Attributes:
        row: its id.
        first, second: the two principles furthest apart.
        p_first, p_second: their verdicts.
        others: how many further couples of principles disagree on it.
        waits: the constitution leaves it to a person, so it has no label until then.
    """

    row: str
    first: str
    second: str
    p_first: float
    p_second: float
    others: int
    waits: bool

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """What leaving one principle out does to the labels.

    Attributes:
        principle: its id.
        judged: rows it has a verdict on.
        flips: rows whose preferred answer changes (a tie that becomes none, or the other way, counts too).
        lost: rows that have no label without it.
        gained: rows that have a label only without it.
        shift: mean |change of p| over rows with a label both ways; nan if there are none.
        rows: ids of the flipped rows.
    """

    principle: str
    judged: int
    flips: int
    lost: int
    gained: int
    shift: float
    rows: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; what is undefined is null."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def conflict_matrix(
    constitution: Constitution, table: Table, *, margin: float | None = None, share: float = ALARM, examples: int = 3
) -> list[Clash]:
    """Every two principles in force, in order of the file.

    Args:
        constitution: the principles.
        table: verdicts, row by row; a principle that does not apply is missing, an unscored one is None.
        margin: beyond which a verdict is clear; None: the constitution's.
        share: of the pairs, above which two principles of one level raise the alarm.
        examples: how many to keep of each.

    Raises:
        ValueError: a verdict of a principle that is not in force.
    """
    rows, values = list(table), _arrays(constitution, table)
    bound = constitution.defaults.margin if margin is None else margin
    found: list[Clash] = []
    for a, b in combinations(constitution.active(), 2):
        d = disagreement(values[a.id], values[b.id], margin=bound)
        kept = tuple(
            Example(row=rows[i], p_first=float(values[a.id][i]), p_second=float(values[b.id][i]))
            for i in d.clashing[:examples]
        )
        found.append(Clash(
            first=a.id, second=b.id, levels=(a.level, b.level), pairs=d.pairs, disagree=d.disagree,
            opposite=d.opposite, phi=d.phi, gap=d.gap, declared=_declared(constitution, a.id, b.id),
            alarm=a.level == b.level and d.disagree > share, examples=kept,
        ))  # fmt: skip
    return found


def contested_pairs(
    constitution: Constitution, table: Table, *, pairs: Mapping[str, Pair] | None = None, margin: float | None = None
) -> list[Contested]:
    """The queue for a person: pairs that wait for one first, then those whose principles are furthest apart.

    Two principles contest a pair if they disagree clearly and nothing says which prevails: they share a level or are of
    weighted levels, and no override or resolution other than ``weigh`` or ``person`` stands between them. Settled pairs
    are left out.

    Args:
        constitution: the principles.
        table: as for :func:`conflict_matrix`.
        pairs: the texts of the rows, by which settled ones are recognised.
        margin: as for :func:`conflict_matrix`.

    Raises:
        ValueError: a verdict of a principle that is not in force.
    """
    _arrays(constitution, table)
    bound = constitution.defaults.margin if margin is None else margin
    open_couples = _open_couples(constitution)
    queue: list[Contested] = []
    for row, verdicts in table.items():
        pair = (pairs or {}).get(row)
        if pair is not None and settled_case(constitution, pair) is not None:
            continue
        apart: list[tuple[float, str, str, float, float]] = []
        for a, b in open_couples:
            p, q = verdicts.get(a), verdicts.get(b)
            if p is not None and q is not None and opposed(p, q, bound):
                apart.append((abs(p - q), a, b, p, q))
        if apart:
            _, a, b, p, q = max(apart, key=lambda x: x[0])
            waits = decide(constitution, verdicts).how == "person"
            queue.append(Contested(
                row=row, first=a, second=b, p_first=p, p_second=q, others=len(apart) - 1, waits=waits
            ))  # fmt: skip
    return sorted(queue, key=lambda c: (not c.waits, -abs(c.p_first - c.p_second)))


def queue_lines(queue: Sequence[Contested], pairs: Mapping[str, Pair]) -> list[dict[str, Any]]:
    """The queue with the texts of its pairs, as written to a file and read by ``trueup constitution settle``."""
    return [
        {"row": c.row, "prompt": pairs[c.row].prompt, "answers": [pairs[c.row].first, pairs[c.row].second],
         "principles": {c.first: c.p_first, c.second: c.p_second}, "others": c.others, "waits": c.waits}
        for c in queue
    ]  # fmt: skip


def ablation(constitution: Constitution, table: Table, *, pairs: Mapping[str, Pair] | None = None) -> list[Ablation]:
    """Label flips when one principle is left out, each in turn.

    Args:
        constitution: the principles.
        table: as for :func:`conflict_matrix`.
        pairs: the texts of the rows; settled ones keep their label whoever is left out.

    Raises:
        ValueError: a verdict of a principle that is not in force, or outside [0, 1].
    """
    whole = {row: decide(constitution, v, pair=(pairs or {}).get(row)) for row, v in table.items()}
    found: list[Ablation] = []
    for principle in constitution.active():
        touched = [row for row, v in table.items() if v.get(principle.id) is not None]
        without = {
            row: decide(
                constitution, {n: p for n, p in table[row].items() if n != principle.id}, pair=(pairs or {}).get(row)
            )
            for row in touched
        }
        both = [r for r in touched if whole[r].p is not None and without[r].p is not None]
        flipped = tuple(r for r in both if _side(whole[r]) != _side(without[r]))
        shifts = [abs((whole[r].p or 0.0) - (without[r].p or 0.0)) for r in both]
        found.append(Ablation(
            principle=principle.id, judged=len(touched), flips=len(flipped),
            lost=sum(whole[r].p is not None and without[r].p is None for r in touched),
            gained=sum(whole[r].p is None and without[r].p is not None for r in touched),
            shift=float(np.mean(shifts)) if shifts else math.nan, rows=flipped,
        ))  # fmt: skip
    return found


def _side(decision: Decision) -> int:
    assert decision.p is not None  # asked of labelled rows only
    return (decision.p > 0.5) - (decision.p < 0.5)


def _arrays(constitution: Constitution, table: Table) -> dict[str, np.ndarray]:
    """Verdicts of each principle, ``[n]``, nan where there is none."""
    names = [p.id for p in constitution.active()]
    for row, verdicts in table.items():
        strange = [n for n in verdicts if n not in names]
        if strange:
            raise ValueError(f"{row}: {strange[0]!r} is no principle in force of {constitution.name!r}")
    return {
        n: np.array([math.nan if (p := v.get(n)) is None else p for v in table.values()], dtype=float) for n in names
    }


def _declared(constitution: Constitution, a: str, b: str) -> str | None:
    for one, other in ((a, b), (b, a)):
        principle = constitution.principle(one)
        if other in principle.overrides:
            return f"{one} overrides {other}"
        for conflict in principle.conflicts_with:
            if conflict.id == other:
                names = {"this": f"{one} prevails", "other": f"{other} prevails", "weigh": "weighed"}
                return names.get(conflict.resolution, "a person decides")
    return None


def _open_couples(constitution: Constitution) -> Sequence[tuple[str, str]]:
    """Couples of principles of which nothing says which prevails."""
    kinds = {level.name: level.kind for level in constitution.levels}
    above = prevails(constitution.principles)
    waiting = {
        frozenset((p.id, c.id)) for p in constitution.active() for c in p.conflicts_with if c.resolution == "person"
    }
    return [
        (a.id, b.id)
        for a, b in combinations(constitution.active(), 2)
        if b.id not in above[a.id]
        and a.id not in above[b.id]
        and (a.level == b.level or kinds[a.level] == kinds[b.level] == "weighted" or frozenset((a.id, b.id)) in waiting)
    ]
