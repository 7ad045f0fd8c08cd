"""A judging model as the scorer of several answers to each prompt: by grades, or by comparing every two of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trueup.feedback.base import Answered, Scorer
from trueup.feedback.combine import score_with_spread
from trueup.feedback.grade import AsScorer
from trueup.feedback.hearing import Manner
from trueup.feedback.judge import ModelJudge, round_robin
from trueup.feedback.judgement import Compared, Judgement
from trueup.feedback.speaker import Speaker
from trueup.feedback.verdict import HELPFUL, Rubric
from trueup.runs.journal import Journal

By = Literal["compare", "grade"]
CALLS = {"kind": "calls to judges"}  # identity of a cache: its keys say who was asked what, so jobs may share one


@dataclass(frozen=True, slots=True)
class Ranked:
    """Scores of the answers to one prompt.

    Attributes:
        scores: ``[k]``; nan where an answer could not be judged.
        reasons: why not, ``[k]``; empty where it could.
    """

    scores: np.ndarray
    reasons: tuple[str, ...]


class JudgeScorer:
    """Scores by a judging model; what it cannot judge is left out with its reason.

    ``compare``: the mean probability to beat another answer to the same prompt, in [0, 1]; it compares answers to one
    prompt only. ``grade``: from 1 to 9. The journal of calls is open only while there is something to ask.

    Args:
        speaking: opens who is asked.
        by: how answers to one prompt are ranked.
        rubric: what counts.
        cache: file that keeps the calls, so that none is made twice; None: kept for one request only.
        manner: how the model is asked.
    """

    def __init__(
        self,
        speaking: Callable[[], AbstractContextManager[Speaker]],
        *,
        by: By = "compare",
        rubric: Rubric = HELPFUL,
        cache: Path | None = None,
        manner: Manner | None = None,
    ) -> None:
        self._speaking, self.by, self.rubric, self.cache = speaking, by, rubric, cache
        self.manner = manner or Manner()
        with speaking() as speaker:
            asked = (ModelJudge if by == "compare" else AsScorer)(speaker, rubric, manner=self.manner)
            self.identity = asked.identity

    @contextmanager
    def _open(self) -> Iterator[tuple[Speaker, Journal | None]]:
        with self._speaking() as speaker:
            if self.cache is None:
                yield speaker, None
                return
            with Journal(self.cache, CALLS) as journal:
                yield speaker, journal

    def score(self, answers: Sequence[Answered]) -> np.ndarray:
        """Grades, ``[n]``, each from 1 to 9, whichever way answers to one prompt are ranked.

        Raises:
            ScoringError: an answer that cannot be graded, with the reason.
        """
        with self._open() as (speaker, journal):
            return AsScorer(speaker, self.rubric, journal, manner=self.manner).score(answers)

    def rank(self, groups: Sequence[Sequence[Answered]]) -> list[Ranked]:
        """Scores of the answers to each prompt."""
        with self._open() as (speaker, journal):
            if self.by == "grade":
                heard = iter(
                    AsScorer(speaker, self.rubric, journal, manner=self.manner).grades([a for g in groups for a in g])
                )
                return [_ranked([(h.value, h.reason) for h in (next(heard) for _ in group)]) for group in groups]
            noted = _Noted(ModelJudge(speaker, self.rubric, journal, manner=self.manner))
            scores = round_robin(noted, groups)
        return [
            Ranked(own, tuple(noted.reason(a) if math.isnan(s) else "" for a, s in zip(group, own, strict=True)))
            for group, own in zip(groups, scores, strict=True)
        ]


class _Noted:
    """A judge, and why it could not judge an answer."""

    def __init__(self, judge: ModelJudge) -> None:
        self._judge, self._reasons = judge, dict[int, str]()

    @property
    def identity(self) -> str:
        return self._judge.identity

    def compare(self, pairs: Sequence[Compared]) -> list[Judgement]:
        said = self._judge.compare(pairs)
        for pair, one in zip(pairs, said, strict=True):
            if one.unscored is not None:
                self._reasons |= {id(pair.first): one.unscored, id(pair.second): one.unscored}
        return said

    def reason(self, answer: Answered) -> str:
        return self._reasons.get(id(answer), "there is no other answer to compare it with")


def _ranked(found: Sequence[tuple[float | None, str]]) -> Ranked:
    return Ranked(np.array([math.nan if v is None else v for v, _ in found]), tuple(reason for _, reason in found))


def ranked(scorer: Scorer, groups: Sequence[Sequence[Answered]]) -> tuple[list[Ranked], float]:
    """Scores of the answers to each prompt by any scorer, and how far the members of an ensemble part (nan: none).

    Raises:
        ScoringError: a scorer that is no judge could not score an answer.
    """
    if isinstance(scorer, JudgeScorer):
        return scorer.rank(groups), math.nan
    values, spread = score_with_spread(scorer, [a for group in groups for a in group])
    rest, out = np.asarray(values, dtype=np.float64), list[Ranked]()
    for group in groups:
        out.append(Ranked(rest[: len(group)], ("",) * len(group)))
        rest = rest[len(group) :]
    return out, spread
