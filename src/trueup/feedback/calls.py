"""Calls to a judging model: none made twice, every one written down, and no more than were granted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trueup.errors import ConfigError
from trueup.feedback.speaker import Failure, Question, Reply, Speaker
from trueup.runs.journal import Journal
from trueup.runs.metrics import number

AT_ONCE = 64  # calls handed over together: a limit of tokens or money is passed by one such batch at most
PATIENCE = 20  # failures in a row, after which the machinery is taken to be out of order


class Budget:
    """What a whole job may spend; one budget may be shared by several judges.

    A limit of calls is never passed. What a call costs is known when it is over, so limits of tokens and money are
    looked at between batches. Calls of an interrupted job count: they are read from its journal.

    Args:
        calls: at most; None: any number.
        tokens: in and out together, at most; None: any number.
        cost: at most, in the currency of the prices; None: any.
        price_in, price_out: of a million tokens.

    Attributes:
        made: calls so far, failed ones included.
        tokens_in, tokens_out: so far.

    Raises:
        ConfigError: a negative limit or price, or a limit of cost without a price.
    """

    def __init__(
        self,
        *,
        calls: int | None = None,
        tokens: int | None = None,
        cost: float | None = None,
        price_in: float = 0.0,
        price_out: float = 0.0,
    ) -> None:
        given = {"calls": calls, "tokens": tokens, "cost": cost, "price_in": price_in, "price_out": price_out}
        for name, value in given.items():
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"judge.budget.{name}: {value} makes no sense; 0 or more is expected")
        if cost is not None and price_in == price_out == 0:
            raise ConfigError("judge.budget.cost: has no effect without judge.budget.price_in or price_out")
        self.calls, self.tokens, self.cost_limit = calls, tokens, cost
        self.price_in, self.price_out = price_in, price_out
        self.made = self.tokens_in = self.tokens_out = 0
        self._read: set[int] = set()

    @property
    def cost(self) -> float:
        """Spent so far."""
        return (self.tokens_in * self.price_in + self.tokens_out * self.price_out) / 1e6

    def spend(self, tokens_in: int, tokens_out: int) -> None:
        """Counts a call."""
        self.made += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out

    def resume(self, journal: Journal) -> None:
        """Counts the calls of a journal, once however many judges write to it."""
        if id(journal) not in self._read:
            self._read.add(id(journal))
            for record in journal.records.values():
                if not record.get("lasting"):
                    self.spend(record["tokens_in"], record["tokens_out"])

    def room(self, wanted: int) -> int:
        """How many of the wanted calls may be made now."""
        if self.spent():
            return 0
        return wanted if self.calls is None else min(wanted, self.calls - self.made)

    def spent(self) -> str:
        """Which limit is reached; empty if none is."""
        if self.calls is not None and self.made >= self.calls:
            return f"the budget of {self.calls:,} calls is spent"
        if self.tokens is not None and self.tokens_in + self.tokens_out >= self.tokens:
            return f"the budget of {self.tokens:,} tokens is spent"
        if self.cost_limit is not None and self.cost >= self.cost_limit:
            return f"the budget of {self.cost_limit:g} is spent"
        return ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question's outcome.

    Attributes:
        answer: a reply, or why there is none.
        made: a call was made for it now; False: it was known, or the call was not made at all.
    """

    answer: Reply | Failure
    made: bool


class Caller:
    """Asks a speaker, through a journal and within a budget.

    The key of a call is the sha256 of everything its answer depends on (:meth:`Question.key`). A reply is written the
    moment it is there, so a kill loses only calls in flight. A failure is written too, and tried again by the next
    job; a question that the job has asked already is not asked again.

    Args:
        speaker: who answers.
        journal: where calls are kept; None: in memory.
        budget: None: without limits.
        at_once: calls handed over together.
        patience: failures in a row after which no further call is made until the next :meth:`ask`.
    """

    def __init__(
        self,
        speaker: Speaker,
        journal: Journal | None = None,
        budget: Budget | None = None,
        *,
        at_once: int = AT_ONCE,
        patience: int = PATIENCE,
    ) -> None:
        self.speaker, self.journal, self.budget = speaker, journal, budget or Budget()
        self.at_once, self.patience = at_once, patience
        self._memory: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, Failure] = {}
        if journal is not None:
            self.budget.resume(journal)

    def ask(self, questions: Sequence[Question], notes: Sequence[Mapping[str, Any]]) -> list[Asked]:
        """The outcome of each question, in order; equal questions are asked once.

        Args:
            questions: what to ask.
            notes: what the journal shall say about each besides its outcome (row, order ...).
        """
        keys = [q.key(self.speaker.identity) for q in questions]
        todo: dict[str, int] = {}
        for index, key in enumerate(keys):
            if key not in self._records and key not in self._failed:
                todo.setdefault(key, index)
        refused: dict[str, Failure] = {}
        made = set(self._call(list(todo.items()), questions, notes, refused))
        out: list[Asked] = []
        for index, key in enumerate(keys):
            answer = refused.get(key) or self._failed.get(key) or _reply(self._records[key])
            out.append(Asked(answer, key in made and todo[key] == index))
        return out

    @property
    def _records(self) -> dict[str, dict[str, Any]]:
        return self._memory if self.journal is None else self.journal.records

    def _call(
        self,
        todo: Sequence[tuple[str, int]],
        questions: Sequence[Question],
        notes: Sequence[Mapping[str, Any]],
        refused: dict[str, Failure],
    ) -> Iterator[str]:
        """Makes the calls; yields the key of each that was made, and fills ``refused`` with those that were not."""
        failures = 0
        at = 0
        while at < len(todo):
            batch = todo[at : at + self.budget.room(min(self.at_once, len(todo) - at))]
            if not batch:
                refused.update((key, Failure(self.budget.spent())) for key, _ in todo[at:])
                return
            at += len(batch)
            waiting = dict(enumerate(batch))
            for place, answer in self.speaker.ask_many([questions[i] for _, i in batch]):
                key, index = waiting.pop(place)
                if self._keep(key, answer, questions[index], notes[index]):
                    yield key
                failures = failures + 1 if isinstance(answer, Failure) and not answer.lasting else 0
            lost = Failure("the judge gave neither an answer nor a reason")
            for key, index in waiting.values():
                self._keep(key, lost, questions[index], notes[index])
                yield key
            if failures >= self.patience and at < len(todo):
                last = next(reversed(self._failed.values())).reason
                why = f"not asked: {failures} calls in a row had failed, the last because: {last}"
                refused.update((key, Failure(why)) for key, _ in todo[at:])
                return

    def _keep(self, key: str, answer: Reply | Failure, question: Question, note: Mapping[str, Any]) -> bool:
        """Writes an outcome down and counts it; returns whether it was a call."""
        how = {"prompt_sha256": question.prompt_sha256, "options": question.options, "max_tokens": question.max_tokens,
               "temperature": question.temperature, "seed": question.seed}  # fmt: skip
        record = {**note, **how, "judge": self.speaker.identity, "tokens_in": 0, "tokens_out": 0}
        if isinstance(answer, Failure):
            self._failed[key] = answer
            attempt = 1 + sum(f"{key}/failed/{n}" in self._records for n in range(1, 1000))
            key = f"{key}/failed/{attempt}"
            record |= {"failed": answer.reason, "lasting": answer.lasting}
        else:
            record |= asdict(answer)
        if self.journal is None:
            self._memory[key] = record
        else:
            self.journal.add(key, record)
        if not record.get("lasting"):
            self.budget.spend(record["tokens_in"], record["tokens_out"])
        return not record.get("lasting")


def _reply(record: Mapping[str, Any]) -> Reply:
    logprobs = record["option_logprobs"]
    return Reply(
        text=record["text"],
        option_logprobs=None if logprobs is None else tuple(number(v) for v in logprobs),
        refused=record["refused"],
        truncated=record["truncated"],
        tokens_in=record["tokens_in"],
        tokens_out=record["tokens_out"],
    )
