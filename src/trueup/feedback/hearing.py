"""From a question to a number: by the log-probabilities of fixed answer tokens where there are any, else in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trueup.feedback.calls import Asked, Caller
from trueup.feedback.speaker import Failure, Question
from trueup.feedback.verdict import FORMS, Brief, read_verdict, shares

Way = Literal["auto", "logprobs", "parsed"]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a judge is asked.

    Attributes:
        way: ``logprobs``: of the answer tokens, and unscored without; ``parsed``: a verdict in words; ``auto``:
            log-probabilities, and words where the backend gives none or the model would rather say something else.
        least_mass: the answer tokens must hold this share of the probability, else they are not what the model says.
        max_tokens, temperature, seed: of a verdict in words.
    """

    way: Way = "auto"
    least_mass: float = 1e-3
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    @property
    def identity(self) -> str:
        """Everything, with the version of the wording."""
        return (
            f"{self.way}, least mass {self.least_mass:g}, {self.max_tokens} tokens, temperature {self.temperature:g}, "
            f"seed {self.seed}, wording {FORMS}"
        )


@dataclass(frozen=True, slots=True)
class Matter:
    """Something to be asked.

    Attributes:
        brief: the prompt: with ``True`` for a verdict in words, with ``False`` for an answer token.
        note: for the journal.
    """

    brief: Callable[[bool], Brief]
    note: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of it.

    Attributes:
        value: expectation over the answer tokens, or the value of the word; None: unscored.
        reason: why it is unscored; empty if it is not.
        how: how it was read, or would have been.
        mass: share of the probability that the answer tokens held; None if they were not asked for.
        calls: made now.
        suspect: places in the answers that look like an attempt to speak for the judge.
    """

    value: float | None
    reason: str
    how: Literal["logprobs", "parsed"]
    mass: float | None
    calls: int
    suspect: int


class Hearing:
    """Asks matters of one kind.

    Args:
        caller: through whom.
        manner: how.
        options: the answer tokens, of those words.
        values: number of each word.
    """

    def __init__(self, caller: Caller, manner: Manner, options: Sequence[str], values: Mapping[str, float]) -> None:
        self.caller, self.manner, self.options, self.values = caller, manner, tuple(options), values
        self._silent = False  # the backend gives no log-probabilities: known after the first answer

    def hear(self, matters: Sequence[Matter]) -> list[Heard]:
        """A number for each, or why there is none."""
        heard: dict[int, Heard] = {}
        if self.manner.way != "parsed" and not self._silent:
            # one alone first: if it comes without log-probabilities, the others are not asked for them in vain
            for part in (range(len(matters))[:1], range(len(matters))[1:]):
                if not self._silent:
                    heard |= self._by_tokens([(i, matters[i]) for i in part])
        if self.manner.way == "logprobs":
            return [heard[i] if i in heard else self._none_given(m) for i, m in enumerate(matters)]
        again = [i for i in range(len(matters)) if i not in heard or heard[i].reason == _ASIDE]
        for i, found in zip(again, self._by_words([matters[i] for i in again]), strict=True):
            before = heard.get(i)
            calls = found.calls + (before.calls if before else 0)
            mass = before.mass if before else None
            heard[i] = Heard(found.value, found.reason, "parsed", mass, calls, found.suspect)
        return [heard[i] for i in range(len(matters))]

    def _none_given(self, matter: Matter) -> Heard:
        return Heard(None, _NO_LOGPROBS, "logprobs", None, 0, matter.brief(False).suspect)

    def _by_tokens(self, matters: Sequence[tuple[int, Matter]]) -> dict[int, Heard]:
        briefs = [m.brief(False) for _, m in matters]
        questions = [Question(messages=(("user", b.text),), options=self.options, max_tokens=1) for b in briefs]
        notes = [{**m.note, "how": "logprobs"} for _, m in matters]
        return {
            i: self._token(asked, brief.suspect)
            for (i, _), brief, asked in zip(matters, briefs, self.caller.ask(questions, notes), strict=True)
        }

    def _token(self, asked: Asked, suspect: int) -> Heard:
        answer, calls = asked.answer, int(asked.made)
        aside = _ASIDE if self.manner.way == "auto" else ""
        if isinstance(answer, Failure):
            return Heard(None, answer.reason, "logprobs", None, calls, suspect)
        if answer.option_logprobs is None:
            self._silent = True
            return Heard(None, aside or _NO_LOGPROBS, "logprobs", None, calls, suspect)
        if all(v == float("-inf") for v in answer.option_logprobs):
            told, mass = (), 0.0
        else:
            try:
                told, mass = shares(answer.option_logprobs)
            except ValueError as error:
                return Heard(None, str(error), "logprobs", None, calls, suspect)
        if not told or mass < self.manner.least_mass:
            why = f"the answers {', '.join(self.options)} hold only {mass:.2g} of the probability"
            return Heard(None, aside or why, "logprobs", mass, calls, suspect)
        value = sum(p * self.values[word] for word, p in zip(self.options, told, strict=True))
        return Heard(value, "", "logprobs", mass, calls, suspect)

    def _by_words(self, matters: Sequence[Matter]) -> list[Heard]:
        briefs = [m.brief(True) for m in matters]
        manner = self.manner
        questions = [
            Question(
                messages=(("user", b.text),),
                max_tokens=manner.max_tokens,
                temperature=manner.temperature,
                seed=manner.seed,
            )
            for b in briefs
        ]
        asked = self.caller.ask(questions, [{**m.note, "how": "parsed"} for m in matters])
        return [self._word(one, brief) for one, brief in zip(asked, briefs, strict=True)]

    def _word(self, asked: Asked, brief: Brief) -> Heard:
        answer, calls = asked.answer, int(asked.made)
        if isinstance(answer, Failure):
            return Heard(None, answer.reason, "parsed", None, calls, brief.suspect)
        verdict = read_verdict(answer.text, brief.nonce, brief.words)
        reason = verdict.reason
        if answer.refused:
            reason = "the judge declined"
        elif reason and not answer.text.strip():
            reason = "the judge said nothing"
        elif reason and answer.truncated:
            reason += f" (cut at {self.manner.max_tokens} tokens; raise max_tokens)"
        value = None if reason or verdict.word is None else self.values[verdict.word]
        return Heard(value, reason, "parsed", None, calls, brief.suspect)


_NO_LOGPROBS = "the backend gives no log-probabilities of the answer tokens"
_ASIDE = "\0ask in words"  # to be asked once more; never shown
