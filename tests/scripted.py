"""A speaker that answers as a function says, for tests of what is built on judging models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

from trueup.feedback.speaker import Failure, Question, Reply

Voice = Callable[[Question], "Reply | Failure"]
_SLOTS = re.compile(r"<<begin \w+ answer(?: [AB])?>>\n(.*?)\n<<end", re.DOTALL)


class Script:
    """Answers as ``voice`` says, the last question first (order is free), and remembers what it was asked."""

    def __init__(self, voice: Voice, identity: str = "script") -> None:
        self.voice, self.identity = voice, identity
        self.asked: list[Question] = []

    def ask(self, question: Question) -> Reply | Failure:
        self.asked.append(question)
        return self.voice(question)

    def ask_many(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | Failure]]:
        yield from ((i, self.ask(questions[i])) for i in reversed(range(len(questions))))


def slots(text: str) -> list[str]:
    """The answers that a judge is shown, in order."""
    return _SLOTS.findall(text)


def nonce(text: str) -> str:
    found = re.search(r"<<begin (\w+) ", text)
    assert found is not None
    return found[1]


def tokens(p: float, mass: float = 0.8) -> Reply:
    """Log-probabilities of two options, the first of which has probability ``p`` among them."""
    return Reply(option_logprobs=(_log(p * mass), _log((1 - p) * mass)), tokens_in=10, tokens_out=1)


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf
