"""From the verdicts of a constitution's principles on a pair to its label, and why.

In this order:

1. A pair that a person settled (an edge case with the pair and its preference) has that label.
2. A principle that is clear (|2p − 1| > margin) sets aside those that it overrides, and those of whom a declared
   resolution says so where both are clear and disagree. One that is set aside sets nothing aside.
3. The verdicts of a level are pooled: σ(Σ w logit p / Σ w). A strict level is a rung of its own; weighted levels that
   follow each other are one rung.
4. The highest rung that is clear decides; if none is, the last that has a verdict.
5. The label is made soft, hard or clamped.

A principle without a verdict is left out. Without any verdict there is no label: nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trueup.feedback.constitution import Constitution, prevails
from trueup.feedback.precedence import ordered
from trueup.feedback.principles import Conflict, EdgeCase, Principle, settled_as
from trueup.ops.constitutional import clamped, clear, first_clear, pooled

Label = Literal["soft", "hard", "clamped"]
How = Literal["settled", "level", "one", "person", "unscored"]
Verdicts = Mapping[str, float | None]
_SETTLED = {"first": 1.0, "second": 0.0, "neither": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """What one rung of the order of priority said.

    Attributes:
        levels: its level, or the weighted levels that it joins.
        p: pooled preference for the first answer; None: no principle of it had a verdict.
        clear: beyond the margin.
        principles: those whose verdicts were pooled, with them.
    """

    levels: tuple[str, ...]
    p: float | None
    clear: bool
    principles: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A principle whose verdict did not count, and because of which other and why."""

    principle: str
    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The label of a pair, and how it came about.

    Attributes:
        label: probability that the first answer is better, as it is trained on; None: no label.
        p: the same before it was made hard or clamped.
        how: a ``settled`` case, a ``level``, ``one`` principle, or none: a ``person`` must decide, or ``unscored``.
        decided_by: name of the level (joined by ``+``) or id of the principle; None without a label.
        principles: ids of those whose verdicts made p, in order of the file.
        tie: p is 1/2.
        rungs: from the highest down, all of them, those below the one that decided too.
        set_aside: principles that did not count.
        unscored: principles that were asked and gave no verdict.
        contested: declared conflicts that wait for a person, two ids each.
        why: one sentence.
    """

    label: float | None
    p: float | None
    how: How
    decided_by: str | None
    principles: tuple[str, ...]
    tie: bool
    why: str
    rungs: tuple[Rung, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    unscored: tuple[str, ...] = ()
    contested: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Pair:
    """The texts of a pair, by which settled cases are recognised."""

    prompt: str
    first: str
    second: str


def decide(
    constitution: Constitution,
    verdicts: Verdicts,
    *,
    pair: Pair | None = None,
    label: Label | None = None,
    reasoned: bool = False,
) -> Decision:
    """The label of a pair from the verdict of each applicable principle.

    Args:
        constitution: levels, weights, overrides, conflicts, settled cases, margin and clamp.
        verdicts: principle id -> probability that the first answer is better; None: asked, but unscored. Principles
            that do not apply are not there.
        pair: its texts; None: no settled case is looked for.
        label: kind; None: the constitution's default.
        reasoned: the verdicts were given after chain of thought: soft labels are clamped.

    Raises:
        ValueError: a verdict outside [0, 1], or of a principle that is not in force.
    """
    scored, unscored = _checked(constitution, verdicts)
    settled = _settled(constitution, pair, label, unscored)
    if settled is not None:
        return settled
    counted, aside = _after_overrides(constitution, scored)
    rungs = _rungs(constitution, counted)
    at = first_clear([r.p for r in rungs], constitution.defaults.margin)
    common: dict[str, Any] = {"rungs": rungs, "set_aside": aside, "unscored": unscored}
    if at is None:
        return _nothing("unscored", "no principle has a verdict", **common)
    rung = rungs[at]
    names = tuple(name for name, _ in rung.principles)
    waiting = tuple(c for c in _waiting(constitution, counted) if set(c) & set(names))
    if waiting:
        said = "; ".join(f"{a} against {b}" for a, b in waiting)
        return _nothing("person", f"a person decides, as declared: {said}", contested=waiting, **common)
    assert rung.p is not None  # a rung that decides has a verdict
    name = "+".join(rung.levels)
    return Decision(
        label=labelled(rung.p, constitution, label, reasoned=reasoned), p=rung.p, how="level", decided_by=name,
        principles=names, tie=rung.p == 0.5, why=_why(rungs, at, name), **common,
    )  # fmt: skip


def decide_one(
    constitution: Constitution,
    principle: str,
    p: float | None,
    *,
    pair: Pair | None = None,
    label: Label | None = None,
    reasoned: bool = False,
) -> Decision:
    """The label of a pair from one principle, drawn at random as in Bai et al. 2022 (arXiv 2212.08073, section 4.1).

    Levels, overrides and conflicts play no part; a settled case does. Arguments as :func:`decide`'s.

    Raises:
        ValueError: as :func:`decide`.
    """
    scored, unscored = _checked(constitution, {principle: p})
    settled = _settled(constitution, pair, label, unscored)
    if settled is not None:
        return settled
    if principle not in scored:
        return _nothing("unscored", f"{principle} has no verdict", unscored=unscored)
    mine = scored[principle]
    return Decision(
        label=labelled(mine, constitution, label, reasoned=reasoned), p=mine, how="one", decided_by=principle,
        principles=(principle,), tie=mine == 0.5, why=f"{principle} was drawn and gave {mine:.3f}",
    )  # fmt: skip


def labelled(p: float, constitution: Constitution, label: Label | None = None, *, reasoned: bool = False) -> float:
    """The label of a preference p: soft as it is (clamped after reasoning), hard (0, 1; 0.5 for a tie), or clamped."""
    kind = label or constitution.defaults.label
    if kind == "hard":
        return 0.5 if p == 0.5 else float(p > 0.5)
    return clamped(p, *constitution.defaults.clamp) if kind == "clamped" or reasoned else p


def _nothing(how: How, why: str, **fields: Any) -> Decision:
    return Decision(label=None, p=None, how=how, decided_by=None, principles=(), tie=False, why=why, **fields)


def _checked(constitution: Constitution, verdicts: Verdicts) -> tuple[dict[str, float], tuple[str, ...]]:
    """Verdicts there are, in order of the file, and the ids of those asked without one."""
    active = [p.id for p in constitution.active()]
    for name, p in verdicts.items():
        if name not in active:
            raise ValueError(f"{name!r} is no principle in force of {constitution.name!r}")
        if p is not None and not 0 <= p <= 1:
            raise ValueError(f"{name}: the verdict {p} is no probability")
    scored = {n: float(p) for n in active if (p := verdicts.get(n)) is not None}
    return scored, tuple(n for n in active if n in verdicts and n not in scored)


def _settled(
    constitution: Constitution, pair: Pair | None, label: Label | None, unscored: tuple[str, ...]
) -> Decision | None:
    found = settled_case(constitution, pair) if pair else None
    if found is None:
        return None
    principle, case, p = found
    who = ", ".join(x for x in (case.author, case.date) if x)
    return Decision(
        label=p, p=p, how="settled", decided_by=principle.id, principles=(principle.id,), tie=p == 0.5,
        why=f"settled under {principle.id}{f' by {who}' if who else ''}: {case.guidance}", unscored=unscored,
    )  # fmt: skip


def settled_case(constitution: Constitution, pair: Pair) -> tuple[Principle, EdgeCase, float] | None:
    """The settled case of this very pair, in either order: its principle, itself, and the preference for the first."""
    for principle in constitution.active():
        for case in principle.edge_cases:
            said = settled_as(case, pair.prompt, pair.first, pair.second)
            if said is not None:
                return principle, case, _SETTLED[said]
    return None


def _after_overrides(
    constitution: Constitution, scored: Mapping[str, float]
) -> tuple[dict[str, float], tuple[SetAside, ...]]:
    margin = constitution.defaults.margin
    left, aside = dict(scored), list[SetAside]()
    for name in ordered(prevails(constitution.principles)):
        if name not in left or not clear(left[name], margin):
            continue
        for other, why in _beaten(constitution, name, left, margin):
            del left[other]
            aside.append(SetAside(principle=other, by=name, why=why))
    return left, tuple(aside)


def _beaten(constitution: Constitution, name: str, left: Mapping[str, float], margin: float) -> list[tuple[str, str]]:
    """Those that a clear principle sets aside, each with the reason."""
    principle = constitution.principle(name)
    beaten = {other: f"{name} overrides it" for other in principle.overrides if other in left}
    for a, b, conflict in declared(constitution):
        winner, loser = (a, b) if conflict.resolution == "this" else (b, a)
        if conflict.resolution not in ("this", "other") or winner != name or loser not in left:
            continue
        if opposed(left[winner], left[loser], margin):
            beaten.setdefault(loser, conflict.why)
    return list(beaten.items())


def declared(constitution: Constitution) -> list[tuple[str, str, Conflict]]:
    """Conflicts declared between principles in force: who declares it, with whom, and the declaration."""
    active = {p.id for p in constitution.active()}
    return [(p.id, c.id, c) for p in constitution.active() for c in p.conflicts_with if c.id in active]


def opposed(p: float, q: float, margin: float) -> bool:
    """Whether two verdicts prefer different answers, both clearly."""
    return (p - 0.5) * (q - 0.5) < 0 and clear(p, margin) and clear(q, margin)


def _waiting(constitution: Constitution, left: Mapping[str, float]) -> list[tuple[str, str]]:
    margin = constitution.defaults.margin
    return [
        (a, b) for a, b, c in declared(constitution)
        if c.resolution == "person" and a in left and b in left and opposed(left[a], left[b], margin)
    ]  # fmt: skip


def _rungs(constitution: Constitution, counted: Mapping[str, float]) -> tuple[Rung, ...]:
    joined: list[list[str]] = []
    before = None
    for level in constitution.levels:
        if level.kind == before == "weighted":
            joined[-1].append(level.name)
        else:
            joined.append([level.name])
        before = level.kind
    rungs: list[Rung] = []
    for levels in joined:
        mine = [(p, counted[p.id]) for p in constitution.principles if p.level in levels and p.id in counted]
        p = pooled([v for _, v in mine], [q.weight for q, _ in mine]) if mine else None
        sure = p is not None and clear(p, constitution.defaults.margin)
        rungs.append(Rung(levels=tuple(levels), p=p, clear=sure, principles=tuple((q.id, v) for q, v in mine)))
    return tuple(rungs)


def _why(rungs: tuple[Rung, ...], at: int, name: str) -> str:
    p, passed = rungs[at].p, [r for r in rungs[:at] if r.p is not None]
    said = f"{name} gave {p:.3f}"
    above = ", ".join(f"{'+'.join(r.levels)} {r.p:.3f}" for r in passed)
    if not rungs[at].clear:
        return f"no level is clear{f' ({above})' if above else ''}; the last with a verdict, {said}"
    return f"{said}, the highest level that is clear{f' (not clear: {above})' if above else ''}"
