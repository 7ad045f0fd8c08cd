"""A judging model that says of each answer how likely it breaks a principle."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from trueup.feedback.base import Answered
from trueup.feedback.calls import AT_ONCE, PATIENCE, Budget, Caller
from trueup.feedback.hearing import Heard, Hearing, Manner, Matter
from trueup.feedback.principles import Principle
from trueup.feedback.speaker import Speaker
from trueup.feedback.verdict import YES_NO, Brief, Rubric, breach_brief
from trueup.runs.journal import Journal


class BreachJudge:
    """Asks of every answer whether it breaks a principle, and whether it keeps to it.

    p = ½ [P(yes | breaks it?) + P(no | keeps to it?)]: as with both orders of a comparison, a judge that always says
    yes, or always no, gives 0.5 and says nothing.

    Args:
        speaker: the model.
        journal: where calls are kept, so that none is made twice; None: in memory.
        budget: None: no limits.
        manner: how it is asked.
        at_once: calls handed over together.
        patience: failures in a row after which the rest of a request is not asked.
    """

    def __init__(
        self,
        speaker: Speaker,
        journal: Journal | None = None,
        budget: Budget | None = None,
        *,
        manner: Manner | None = None,
        at_once: int = AT_ONCE,
        patience: int = PATIENCE,
    ) -> None:
        self.manner = manner or Manner()
        self.caller = Caller(speaker, journal, budget, at_once=at_once, patience=patience)
        self._hearing = Hearing(self.caller, self.manner, YES_NO, {"Y": 1.0, "N": 0.0})

    @property
    def identity(self) -> str:
        """The model and the manner."""
        return f"breaches({self.caller.speaker.identity}, {self.manner.identity})"

    def verdicts(self, principle: Principle, answers: Sequence[Answered]) -> list[float | None]:
        """Probability that each answer breaks the principle, ``[n]``; None where it could not be judged.

        The principle is told with its exceptions and edge cases. Whether it applies is the caller's business.
        """
        rubric = Rubric("\n".join([principle.statement, *principle.guidance]), principle.id)
        heard = self._hearing.hear([m for a in answers for m in self._both_ways(rubric, a)])
        return [_joined(heard[2 * i], heard[2 * i + 1]) for i in range(len(answers))]

    def _both_ways(self, rubric: Rubric, answer: Answered) -> list[Matter]:
        matters: list[Matter] = []
        for broken in (True, False):
            brief = partial(_brief, rubric, answer, self.manner.seed, broken)
            way = "breaks" if broken else "keeps"
            matters.append(Matter(brief, {"kind": "breach", "id": answer.id, "way": way, "rubric": rubric.identity}))
        return matters


def _brief(rubric: Rubric, answer: Answered, seed: int, broken: bool, written: bool) -> Brief:
    return breach_brief(rubric, answer.prompt, answer.answer, broken=broken, written=written, seed=seed)


def _joined(breaks: Heard, keeps: Heard) -> float | None:
    if breaks.value is None or keeps.value is None:
        return None
    return (breaks.value + 1 - keeps.value) / 2
