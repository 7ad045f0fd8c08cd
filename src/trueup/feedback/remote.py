"""A judging model behind OpenAI-compatible endpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Protocol

from trueup.errors import TrueupError
from trueup.feedback.speaker import Failure, Question, Reply

TOP = 20  # likeliest first tokens that are asked for: the most that the protocol grants


class Chats(Protocol):
    """What of a pool of endpoints is needed: :class:`trueup.models.endpoint.Endpoints`, or a stand-in."""

    model: str
    capacity: int

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses."""
        ...

    def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer to a chat completion request, retried inside.

        Raises:
            TrueupError: given up, or refused.
        """
        ...


class RemoteSpeaker:
    """Asks endpoints, many questions at once.

    Addresses come from whoever opens the pool, never from a judged text. Log-probabilities of options are summed over
    the tokens among the likeliest 20 that are the option but for blanks; an option that is not among them gets that of
    the last listed, which it cannot pass, if another option is there.

    Args:
        endpoints: the pool; retries are its business.
        identity: None: model and addresses.
    """

    def __init__(self, endpoints: Chats, *, identity: str | None = None) -> None:
        self.endpoints = endpoints
        self._identity = identity or f"{endpoints.model} at {', '.join(sorted(endpoints.urls))}"

    @property
    def identity(self) -> str:
        """Model and addresses, or what was given."""
        return self._identity

    def ask(self, question: Question) -> Reply | Failure:
        """The answer; whatever goes wrong on the way is a failure with its reason."""
        body: dict[str, Any] = {
            "messages": [{"role": role, "content": content} for role, content in question.messages],
            "max_tokens": 1 if question.options else question.max_tokens,
            "temperature": 0.0 if question.options else question.temperature,
            "seed": question.seed,
        }
        if question.options:
            body |= {"logprobs": True, "top_logprobs": TOP}
        try:
            answer = self.endpoints.chat(body)
        except TrueupError as error:
            if question.options and getattr(error, "status", None) in (400, 422) and "logprob" in str(error).lower():
                return Reply()  # this server refuses the very wish for log-probabilities
            return Failure(" ".join(str(error).split()))
        try:
            return _reply(answer, question)
        except _Malformed as error:
            return Failure(f"{self.endpoints.model}: {error}")

    def ask_many(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | Failure]]:
        """As they become ready; as many at once as the endpoints take."""
        if not questions:
            return
        pool = ThreadPoolExecutor(min(self.endpoints.capacity, len(questions)))
        try:
            going = {pool.submit(self.ask, question): i for i, question in enumerate(questions)}
            for done in as_completed(going):
                yield going[done], done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Malformed(Exception):
    """An answer that is not of the protocol."""


def _reply(answer: Mapping[str, Any], question: Question) -> Reply:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _Malformed("an answer without a choice")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise _Malformed("an answer without a message")
    content = message.get("content")
    if not isinstance(content, str | None):
        raise _Malformed(f"the content of an answer is a {type(content).__name__}, not text")
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    finish = choice.get("finish_reason")
    refused = bool(message.get("refusal")) or finish == "content_filter"
    return Reply(
        text=content or "",
        option_logprobs=_options(choice.get("logprobs"), question.options) if question.options else None,
        refused=refused,
        truncated=finish == "length",
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int:
    """Tokens of a call; a server that does not say is taken to have used none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _options(logprobs: Any, options: tuple[str, ...]) -> tuple[float, ...] | None:
    """Log-probability of each option as the first token; None if the server lists none; −inf if none is near."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return None
    listed = content[0].get("top_logprobs") or []
    if not isinstance(listed, list) or not listed:
        return None
    tops: list[tuple[str, float]] = []
    for entry in listed:
        token, value = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
        if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
            raise _Malformed("a log-probability without token or number")
        if math.isnan(value) or value > 1e-3:
            raise _Malformed(f"a log-probability of {value}")
        tops.append((token.strip(), float(value)))
    found = [[value for token, value in tops if token == option] for option in options]
    if not any(found):
        return tuple(-math.inf for _ in options)
    least = min(value for _, value in tops)
    return tuple(_log_sum(values) if values else least for values in found)


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top if top == -math.inf else min(0.0, top + math.log(sum(math.exp(v - top) for v in values)))
