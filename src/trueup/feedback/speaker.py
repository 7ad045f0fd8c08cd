"""What is asked of a judging model and what it says, whoever runs it: this process, a server, or a script in a test."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, TypeAlias

Said: TypeAlias = tuple[str, str]  # role, content


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One call.

    Attributes:
        messages: turns (role, content), the last one of the user.
        options: answers of one token each whose log-probabilities are wanted; None: text is wanted.
        max_tokens: of the text.
        temperature: 0: greedy.
        seed: of the text.

    Raises:
        ValueError: fewer than two options, or numbers that make no sense.
    """

    messages: tuple[Said, ...]
    options: tuple[str, ...] | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1][0] != "user":
            raise ValueError("question.messages: must end with a turn of the user")
        if self.options is not None and len(set(self.options)) < max(2, len(self.options)):
            raise ValueError(f"question.options: at least two different ones are expected, got {self.options!r}")
        if self.max_tokens < 1 or not 0 <= self.temperature < math.inf:
            raise ValueError(f"question: max_tokens {self.max_tokens}, temperature {self.temperature} make no sense")

    @property
    def prompt_sha256(self) -> str:
        """Of the turns alone."""
        return hashlib.sha256(json.dumps(self.messages, ensure_ascii=True).encode()).hexdigest()

    def key(self, identity: str) -> str:
        """sha256 over everything an answer depends on: who is asked, every word of it, and how it is drawn."""
        whole = json.dumps([identity, asdict(self)], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(whole.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back.

    Attributes:
        text: empty where only log-probabilities were asked for.
        option_logprobs: log-probability of each option as the first token, ``[k]``, not normalised; None: text was
            asked for, or the backend gives none.
        refused: the backend says that the model declined.
        truncated: the text was cut at ``max_tokens``.
        tokens_in, tokens_out: of the call.
    """

    text: str = ""
    option_logprobs: tuple[float, ...] | None = None
    refused: bool = False
    truncated: bool = False
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that gave nothing.

    Attributes:
        reason: in words, without line breaks.
        lasting: asking the same again would fail again (too long, a control token); else the fault lay with the
            machinery and the call is repeated when the job is resumed.
    """

    reason: str
    lasting: bool = False


class Speaker(Protocol):
    """Anything that answers questions."""

    @property
    def identity(self) -> str:
        """Who answers, down to the version: path and weights hash, or address and model name."""
        ...

    def ask(self, question: Question) -> Reply | Failure:
        """The answer to one question."""
        ...

    def ask_many(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | Failure]]:
        """Index and answer of each question exactly once, as they become ready, in any order."""
        ...
