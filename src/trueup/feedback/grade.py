"""A judging model as a scorer: grades from 1 to 9, which pairs, ensembles and training take like a reward model's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from trueup.errors import ScoringError
from trueup.feedback.base import Answered
from trueup.feedback.calls import AT_ONCE, PATIENCE, Budget, Caller
from trueup.feedback.hearing import Heard, Hearing, Manner, Matter
from trueup.feedback.speaker import Speaker
from trueup.feedback.verdict import GRADES, HELPFUL, Brief, Rubric, grade_brief
from trueup.runs.journal import Journal


class AsScorer:
    """Grades one answer at a time.

    The grade is Σ_g g · P(g), P over the nine digits as the next token, normalised among themselves (G-Eval: Liu et
    al. 2023, arXiv 2303.16634, eq. 1), or the digit of a verdict in words. The scale ends at 9 because "10" is two
    tokens for most tokenizers.

    Args:
        speaker: the model.
        rubric: what counts.
        journal: where calls are kept; None: in memory.
        budget: None: no limits.
        manner: how it is asked.
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
        at_once: int = AT_ONCE,
        patience: int = PATIENCE,
    ) -> None:
        self.rubric, self.manner = rubric, manner or Manner()
        self.caller = Caller(speaker, journal, budget, at_once=at_once, patience=patience)
        self._hearing = Hearing(self.caller, self.manner, GRADES, {g: float(g) for g in GRADES})

    @property
    def identity(self) -> str:
        """The model, the rubric and the manner."""
        return f"grades({self.caller.speaker.identity}, {self.rubric.identity}, {self.manner.identity})"

    def grades(self, answers: Sequence[Answered]) -> list[Heard]:
        """What was heard about each answer, unscored ones included."""
        return self._hearing.hear([self._matter(a) for a in answers])

    def score(self, answers: Sequence[Answered]) -> np.ndarray:
        """``[n]``, each from 1 to 9.

        Raises:
            ScoringError: an answer that is unscored, with the reason; what was asked is kept.
        """
        heard = self.grades(answers)
        for answer, one in zip(answers, heard, strict=True):
            if one.value is None:
                raise ScoringError(f"{self.identity}: row {answer.id}: unscored: {one.reason}")
        return np.array([one.value for one in heard], dtype=np.float64)

    def _matter(self, answer: Answered) -> Matter:
        note = {"kind": "grade", "id": answer.id, "rubric": self.rubric.identity}
        return Matter(partial(_brief, self.rubric, answer, self.manner.seed), note)


def _brief(rubric: Rubric, answer: Answered, seed: int, written: bool) -> Brief:
    return grade_brief(rubric, answer.prompt, answer.answer, written=written, seed=seed)
