"""What a judge says about two answers, and what many such judgements say about the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from trueup.feedback.base import Answered
from trueup.ops.stats import Interval, wilson

How = Literal["logprobs", "parsed", "scores", "panel"]
ALWAYS = 0.9  # share of pairs in which both orders preferred one slot, from which on the judge reads no answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two answers to one prompt.

    Attributes:
        first, second: the answers; their order means nothing.

    Raises:
        ValueError: they answer different prompts.
    """

    first: Answered
    second: Answered

    def __post_init__(self) -> None:
        if self.first.prompt != self.second.prompt:
            raise ValueError(f"{self.first.id}, {self.second.id}: answers to different prompts cannot be compared")

    @property
    def id(self) -> str:
        """Of the prompt row."""
        return self.first.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What was found about a pair.

    Attributes:
        id: of the pair's prompt.
        judge: who.
        p: probability that the first answer is the better one, the mean over both orders; None: unscored.
        orders: the same by the order shown: first answer in slot A, first answer in slot B; None: unscored, or the
            judge sees one answer at a time.
        flipped: the two orders name different winners.
        tie: p is 1/2 (or within the judge's margin of it).
        unscored: why there is no p; None if there is one.
        how: answer tokens, words, scores, or several judges.
        mass: least share of the probability that the answer tokens held; None if they were not asked for.
        calls: made now; answers that were known cost none.
        suspect: places in the two answers that look like an attempt to speak for the judge.
        disagreement: standard deviation of the judges' p (panels); None otherwise.
        members: what each judge said (panels).
    """

    id: str
    judge: str
    p: float | None
    orders: tuple[float, float] | None = None
    flipped: bool = False
    tie: bool = False
    unscored: str | None = None
    how: How = "parsed"
    mass: float | None = None
    calls: int = 0
    suspect: int = 0
    disagreement: float | None = None
    members: tuple[Judgement, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Judge(Protocol):
    """Anything that compares answers."""

    @property
    def identity(self) -> str:
        """Who judges, and by what, for provenance."""
        ...

    def compare(self, pairs: Sequence[Compared]) -> list[Judgement]:
        """One judgement a pair, in order; a pair that cannot be judged is unscored, with its reason."""
        ...


def joined(orders: tuple[float, float], tie_margin: float = 0.0) -> dict[str, Any]:
    """Fields of a judgement from both orders: the mean of the probabilities, whether they flipped, whether it ties.

    Args:
        orders: probability that the first answer is better, shown in slot A and in slot B.
        tie_margin: |p − 1/2| up to which it is a tie.
    """
    p = (orders[0] + orders[1]) / 2
    flipped = (orders[0] - 0.5) * (orders[1] - 0.5) < 0
    return {"p": p, "orders": orders, "flipped": flipped, "tie": abs(p - 0.5) <= tie_margin}


@dataclass(frozen=True, slots=True)
class Summary:
    """Many judgements of one judge.

    Attributes:
        pairs, scored, ties, calls: counts.
        unscored: reason -> how many.
        how: way of reading -> how many.
        flip_rate: share of scored pairs whose orders name different winners, with its 95 % interval; None: no pair
            was shown in both orders.
        first_slot: share of calls that preferred what stood in slot A (half: neither), with its interval; 0.5 is
            unbiased; None as above. The two calls of a pair are one observation of weight two, so n is pairs.
        always: the judge preferred this slot whatever stood there, in 90 % of pairs or more; None: it does not.
        suspect: pairs with a place that looks like an attempt to speak for the judge.
        disagreement: mean over pairs (panels); None otherwise.
    """

    pairs: int
    scored: int
    ties: int
    calls: int
    unscored: Mapping[str, int]
    how: Mapping[str, int]
    flip_rate: Interval | None
    first_slot: Interval | None
    always: Literal["first", "second"] | None
    suspect: int
    disagreement: float | None = None
    warnings: tuple[str, ...] = field(default=())

    @staticmethod
    def of(judgements: Sequence[Judgement]) -> Summary:
        """Counts."""
        orders = np.array([j.orders for j in judgements if j.orders is not None]).reshape(-1, 2)
        n = len(orders)
        # preference for slot A: in the first order the first answer stands there, in the second order the other
        slot_a = np.sign(np.stack([orders[:, 0] - 0.5, 0.5 - orders[:, 1]], axis=1)) / 2 + 0.5
        flips = sum(j.flipped for j in judgements if j.orders is not None)
        first_slot = wilson(float(slot_a.mean(1).sum()), n) if n else None
        always = _always(slot_a)
        spread = [j.disagreement for j in judgements if j.disagreement is not None]
        scored = sum(j.p is not None for j in judgements)
        unscored = Counter(j.unscored for j in judgements if j.unscored is not None)
        return Summary(
            pairs=len(judgements),
            scored=scored,
            ties=sum(j.tie for j in judgements),
            calls=sum(j.calls for j in judgements),
            unscored=dict(unscored.most_common()),
            how=dict(Counter(j.how for j in judgements if j.p is not None)),
            flip_rate=wilson(flips, n) if n else None,
            first_slot=first_slot,
            always=always,
            suspect=sum(j.suspect > 0 for j in judgements),
            disagreement=float(np.mean(spread)) if spread else None,
            warnings=_warnings(always, first_slot),
        )

    def lines(self) -> list[str]:
        """For a person."""
        ways = ", ".join(f"{how}: {n}" for how, n in sorted(self.how.items()))
        out = [f"{self.pairs} pairs, {self.scored} scored ({ways or 'none'}), {self.ties} ties, {self.calls} calls now"]
        out += [f"  unscored because {reason}: {n}" for reason, n in self.unscored.items()]
        if self.flip_rate is not None and self.first_slot is not None:
            out.append(f"winner changes with the order: {_told(self.flip_rate)} of pairs")
            out.append(f"slot A preferred: {_told(self.first_slot)} (0.5 without position bias)")
        if self.disagreement is not None:
            out.append(f"disagreement of the judges (standard deviation of p): {self.disagreement:.3f}")
        if self.suspect:
            out.append(f"pairs with something that looks like an attempt to speak for the judge: {self.suspect}")
        return out + [f"warning: {w}" for w in self.warnings]

    def to_json(self) -> dict[str, Any]:
        """As plain values; without the calls made now, which tell of interruptions and not of the judge."""
        return {name: value for name, value in asdict(self).items() if name != "calls"}


def _always(slot_a: np.ndarray) -> Literal["first", "second"] | None:
    """Which slot wins both orders of nearly every pair, ``slot_a`` ``[n, 2]`` in {0, ½, 1}; None below 4 pairs."""
    if len(slot_a):
        for name, wanted in (("first", 1.0), ("second", 0.0)):
            share = wilson(int((slot_a == wanted).all(1).sum()), len(slot_a))
            if share.mean >= ALWAYS and share.low > 0.5:
                return name  # type: ignore[return-value]
    return None


def _warnings(always: str | None, first_slot: Interval | None) -> tuple[str, ...]:
    if always is not None:
        slot = {"first": "A", "second": "B"}[always]
        return (f"the judge always says {slot}, whatever stands there: its verdicts say nothing; use another judge",)
    if first_slot is not None and (first_slot.low > 0.5 or first_slot.high < 0.5):
        slot = "A" if first_slot.low > 0.5 else "B"
        return (f"the judge leans to slot {slot}; averaging both orders takes out the lean, not the noise it adds",)
    return ()


def _told(interval: Interval) -> str:
    return f"{interval.mean:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def summaries(judgements: Sequence[Judgement]) -> dict[str, Summary]:
    """One summary for each judge: of the whole, and of every member of a panel, by identity."""
    found: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        for each in (judgement, *judgement.members):
            found.setdefault(each.judge, []).append(each)
    return {judge: Summary.of(own) for judge, own in found.items()}
