"""Judges: a model that compares two answers in both orders, a scorer that compares two scores, and panels of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from trueup.errors import ConfigError, ScoringError
from trueup.feedback.base import Answered, Scorer
from trueup.feedback.calls import AT_ONCE, PATIENCE, Budget, Caller
from trueup.feedback.hearing import Heard, Hearing, Manner, Matter
from trueup.feedback.judgement import Compared, Judge, Judgement, Summary, joined, summaries
from trueup.feedback.speaker import Speaker
from trueup.feedback.verdict import HELPFUL, LETTERS, TIE, Rubric, compare_brief
from trueup.runs.journal import Journal

__all__ = [
    "Budget",
    "Compared",
    "Judge",
    "Judgement",
    "ModelJudge",
    "Panel",
    "ScorerJudge",
    "Summary",
    "round_robin",
    "summaries",
]

_WORTH = {LETTERS[0]: 1.0, LETTERS[1]: 0.0, TIE: 0.5}


class ModelJudge:
    """A language model that is shown both answers, in both orders.

    p = ½ [P(A | first, second) + P(B | second, first)], P over the two answer tokens or 1, ½, 0 of a verdict in words
    (position bias: Zheng et al. 2023, arXiv 2306.05685, section 3.4; averaged probabilities: Lee et al. 2023, arXiv
    2309.00267, section 2.2).

    Args:
        speaker: the model.
        rubric: what counts.
        journal: where calls are kept, so that none is made twice; None: in memory.
        budget: of calls, tokens and money; None: no limits.
        manner: how it is asked.
        tie_margin: |p − 1/2| up to which a pair is called a tie.
        at_once: calls handed over together.
        patience: failures in a row after which the rest of a request is not asked.
    """

    def __init__(
        self,
        speaker: Speaker,
        rubric: Rubric = HELPFUL,
        journal: Journal | None = None,
        budget: Budget | None = None,
        *,
        manner: Manner | None = None,
        tie_margin: float = 0.0,
        at_once: int = AT_ONCE,
        patience: int = PATIENCE,
    ) -> None:
        if not 0 <= tie_margin < 0.5:
            raise ConfigError(f"judge.tie_margin: {tie_margin} makes no sense; it lies in [0, 0.5)")
        self.rubric, self.manner, self.tie_margin = rubric, manner or Manner(), tie_margin
        self.caller = Caller(speaker, journal, budget, at_once=at_once, patience=patience)
        self._hearing = Hearing(self.caller, self.manner, LETTERS, _WORTH)

    @property
    def identity(self) -> str:
        """The model, the rubric and the manner."""
        return f"judge({self.caller.speaker.identity}, {self.rubric.identity}, {self.manner.identity})"

    def compare(self, pairs: Sequence[Compared]) -> list[Judgement]:
        """One judgement a pair, in order."""
        heard = self._hearing.hear([matter for pair in pairs for matter in self._both_orders(pair)])
        return [self._judgement(pair, heard[2 * i], heard[2 * i + 1]) for i, pair in enumerate(pairs)]

    def _both_orders(self, pair: Compared) -> list[Matter]:
        answers = pair.first.answer, pair.second.answer
        matters: list[Matter] = []
        for order, (a, b) in (("first in A", answers), ("first in B", answers[::-1])):
            brief = partial(_brief, self.rubric, pair.first, a, b, self.manner.seed)
            note = {"kind": "compare", "id": pair.id, "order": order, "rubric": self.rubric.identity}
            matters.append(Matter(brief, note))
        return matters

    def _judgement(self, pair: Compared, straight: Heard, swapped: Heard) -> Judgement:
        masses = [h.mass for h in (straight, swapped) if h.mass is not None]
        common: dict[str, Any] = {
            "id": pair.id,
            "judge": self.identity,
            "how": "parsed" if "parsed" in (straight.how, swapped.how) else "logprobs",
            "mass": min(masses, default=None),
            "calls": straight.calls + swapped.calls,
            "suspect": straight.suspect,
        }
        if straight.value is None or swapped.value is None:
            return Judgement(p=None, unscored=straight.reason or swapped.reason, **common)
        return Judgement(**joined((straight.value, 1 - swapped.value), self.tie_margin), **common)


def _brief(rubric: Rubric, answered: Answered, a: str, b: str, seed: int, written: bool) -> Any:
    return compare_brief(rubric, answered.prompt, a, b, written=written, seed=seed)


class ScorerJudge:
    """A reward model or a rule as a judge: p = σ((s_first − s_second) / scale) (Bradley & Terry 1952).

    Args:
        scorer: gives each answer its score.
        scale: of a difference; for a rule of 0 and 1 something well below 1.
        tie_margin: as for :class:`ModelJudge`.
    """

    def __init__(self, scorer: Scorer, *, scale: float = 1.0, tie_margin: float = 0.0) -> None:
        if not 0 < scale < math.inf:
            raise ConfigError(f"judge.scale: {scale} makes no sense; a number above 0 is expected")
        if not 0 <= tie_margin < 0.5:
            raise ConfigError(f"judge.tie_margin: {tie_margin} makes no sense; it lies in [0, 0.5)")
        self.scorer, self.scale, self.tie_margin = scorer, scale, tie_margin

    @property
    def identity(self) -> str:
        """The scorer and the scale."""
        return f"scores({self.scorer.identity}, scale {self.scale:g})"

    def compare(self, pairs: Sequence[Compared]) -> list[Judgement]:
        """One judgement a pair, in order; a pair with an answer that cannot be scored is unscored."""
        scores, reasons = self._scores([answer for pair in pairs for answer in (pair.first, pair.second)])
        out: list[Judgement] = []
        for i, pair in enumerate(pairs):
            reason = reasons.get(2 * i) or reasons.get(2 * i + 1)
            p = None
            if reason is None:
                p = float(0.5 * (1 + np.tanh((scores[2 * i] - scores[2 * i + 1]) / (2 * self.scale))))  # σ, no overflow
            tie = p is not None and abs(p - 0.5) <= self.tie_margin
            out.append(Judgement(id=pair.id, judge=self.identity, p=p, tie=tie, unscored=reason, how="scores"))
        return out

    def _scores(self, answers: Sequence[Answered]) -> tuple[np.ndarray, dict[int, str]]:
        """Scores ``[n]``, and reasons by index where there is none; a batch with a bad answer is scored one by one."""
        if not answers:
            return np.empty(0), {}
        try:
            return self.scorer.score(answers), {}
        except ScoringError:
            scores, reasons = np.full(len(answers), np.nan), dict[int, str]()
        for i, answer in enumerate(answers):
            try:
                scores[i] = self.scorer.score([answer])[0]
            except ScoringError as error:
                reasons[i] = str(error)
        return scores, reasons


class Panel:
    """Several judges: mean of their probabilities, and how far they are apart (Verga et al. 2024, arXiv 2404.18796).

    Args:
        judges: two or more, each different.
        quorum: how many must have scored a pair; None: all.
        tie_margin: as for :class:`ModelJudge`.

    Raises:
        ConfigError: fewer than two judges, one twice, or a quorum that cannot be.
    """

    def __init__(self, judges: Sequence[Judge], *, quorum: int | None = None, tie_margin: float = 0.0) -> None:
        if len({j.identity for j in judges}) < max(2, len(judges)):
            raise ConfigError("judge.panel: two or more different judges are expected")
        if quorum is not None and not 1 <= quorum <= len(judges):
            raise ConfigError(f"judge.quorum: {quorum} makes no sense with {len(judges)} judges")
        if not 0 <= tie_margin < 0.5:
            raise ConfigError(f"judge.tie_margin: {tie_margin} makes no sense; it lies in [0, 0.5)")
        self.judges, self.quorum, self.tie_margin = list(judges), quorum or len(judges), tie_margin

    @property
    def identity(self) -> str:
        """Of every member, and the quorum."""
        return f"panel({'; '.join(j.identity for j in self.judges)}; quorum {self.quorum})"

    def compare(self, pairs: Sequence[Compared]) -> list[Judgement]:
        """One judgement a pair, in order, with those of the members."""
        each = [judge.compare(pairs) for judge in self.judges]
        return [self._joined(pair, members) for pair, *members in zip(pairs, *each, strict=True)]

    def _joined(self, pair: Compared, members: Sequence[Judgement]) -> Judgement:
        common: dict[str, Any] = {
            "id": pair.id,
            "judge": self.identity,
            "how": "panel",
            "calls": sum(m.calls for m in members),
            "suspect": max(m.suspect for m in members),
            "members": tuple(members),
        }
        voices = [m.p for m in members if m.p is not None]
        if len(voices) < self.quorum:
            first = next(m for m in members if m.unscored is not None)
            reason = f"{len(voices)} of {len(members)} judges scored it: {first.unscored}"
            return Judgement(p=None, unscored=reason, **common)
        p = float(np.mean(voices))
        return Judgement(
            p=p,
            tie=abs(p - 0.5) <= self.tie_margin,
            flipped=_flipped([m.orders for m in members if m.p is not None and m.orders is not None]),
            disagreement=float(np.std(voices)),
            **common,
        )


def _flipped(orders: Sequence[tuple[float, float]]) -> bool:
    """Whether the judges that see an order, taken together, name different winners in the two."""
    if not orders:
        return False
    straight, swapped = np.mean(orders, axis=0)
    return bool((straight - 0.5) * (swapped - 0.5) < 0)


def round_robin(judge: Judge, groups: Sequence[Sequence[Answered]]) -> list[np.ndarray]:
    """Scores of the answers to each prompt by a judge of pairs: mean probability to beat another of them, ``[k]`` each.

    A score compares within its group alone. An answer whose every comparison is unscored gets NaN, for the caller to
    leave out; it is never given a number.

    Args:
        judge: who compares; every pair of a group once, k (k − 1) / 2.
        groups: answers to one prompt each; at least two.
    """
    places = [(g, i, j) for g, answers in enumerate(groups) for i in range(len(answers)) for j in range(i)]
    found = judge.compare([Compared(first=groups[g][i], second=groups[g][j]) for g, i, j in places])
    totals = [np.zeros(len(answers)) for answers in groups]
    counts = [np.zeros(len(answers)) for answers in groups]
    for (g, i, j), judgement in zip(places, found, strict=True):
        if judgement.p is not None:
            totals[g][[i, j]] += judgement.p, 1 - judgement.p
            counts[g][[i, j]] += 1
    return [np.where(n > 0, t / np.maximum(n, 1), np.nan) for t, n in zip(totals, counts, strict=True)]
