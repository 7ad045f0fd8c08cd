"""One or many OpenAI-compatible servers as one: the least busy healthy one answers, faults are tried again elsewhere.

A 429, a 5xx, silence, a broken connection or half an answer is tried again, after a pause that grows and is drawn at
random so that callers do not return in step. An endpoint that fails three times in a row is set aside and asked from
time to time whether it is back. What the servers refuse (any other 4xx, a redirect, another model) is an error at once.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeVar

from trueup.errors import ConfigError
from trueup.models.wire import Connection, Endpoint, EndpointError, Fault

A = TypeVar("A")
B = TypeVar("B")

log = logging.getLogger(__name__)

FAILURES = 3  # in a row, before an endpoint is set aside
LONGEST_PAUSE = 20.0  # seconds before a request is made again


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        url: of the endpoint that answered.
        body: of its answer.
    """

    url: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint fares.

    Attributes:
        url: its address.
        healthy: False: set aside.
        in_flight: requests it is working on.
        answered, failed: counts.
        reason: of its last failure; empty if there was none.
    """

    url: str
    healthy: bool
    in_flight: int
    answered: int
    failed: int
    reason: str


class _State:
    """An endpoint and what is known of it. Guarded by the pool's lock."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.connection = endpoint, Connection(endpoint)
        self.in_flight = self.answered = self.failed = self.failures = self.checks = 0
        self.healthy, self.checking = True, False
        self.rest_until = self.check_at = 0.0
        self.reason = ""


class Endpoints:
    """A pool of endpoints that serve one model; safe to call from many threads.

    Args:
        endpoints: at least one, all for one model.
        recheck: seconds at most between two questions to an endpoint that was set aside.
        pause: seconds before a request is made again for the first time; doubled for each further time.

    Attributes:
        model: that they serve.
        capacity: requests at once, over all of them.

    Raises:
        ConfigError: no endpoint, one twice, two models, or a key that is not there.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, recheck: float = 5.0, pause: float = 0.5) -> None:
        if not endpoints:
            raise ConfigError("server: no endpoint is named")
        if len({e.base for e in endpoints}) < len(endpoints):
            raise ConfigError(f"server: an endpoint is named twice: {', '.join(e.url for e in endpoints)}")
        if len(models := sorted({e.model for e in endpoints})) > 1:
            raise ConfigError(f"server: the endpoints of one pool serve one model, and here are {', '.join(models)}")
        self.model = endpoints[0].model
        self.capacity = sum(e.concurrency for e in endpoints)
        self._attempts = max(e.attempts for e in endpoints)
        self._recheck, self._pause = recheck, pause
        self._states = [_State(e) for e in endpoints]
        self._change = threading.Condition()
        self._stop = threading.Event()
        self._random = random.Random()  # our own: the global one belongs to the caller's reproducible run

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of the endpoints."""
        return tuple(s.endpoint.url for s in self._states)

    def health(self) -> list[Health]:
        """How each endpoint fares now."""
        with self._change:
            return [
                Health(s.endpoint.url, s.healthy, s.in_flight, s.answered, s.failed, s.reason) for s in self._states
            ]

    def check(self) -> None:
        """Asks each endpoint, once, whether it serves the model.

        Raises:
            EndpointError: naming each that is out of reach or serves something else.
        """

        def fault(state: _State) -> str | None:
            try:
                state.connection.require_model()
            except Fault as error:
                return f"{state.endpoint.url}: {error.reason}"
            except EndpointError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(len(self._states)) as threads:
            faults = [f for f in threads.map(fault, self._states) if f]
        if faults:
            raise EndpointError("; ".join(faults) + ". Start the server, or mend the address or the model's name")

    def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer to a chat completion request; ``model`` is filled in.

        Raises:
            EndpointError: refused, or given up after the attempts.
        """
        return dict(self.ask("/chat/completions", body).body)

    def completions(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer to a completion request (raw text or token ids); ``model`` is filled in.

        Raises:
            EndpointError: refused, or given up after the attempts.
        """
        return dict(self.ask("/completions", body).body)

    def ask(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Posts to the least busy healthy endpoint until one answers.

        A 429 counts as an attempt only if the endpoint answered nobody else meanwhile: then it is no queue.

        Raises:
            EndpointError: refused, or given up after the attempts.
            ConfigError: the request names another model.
        """
        if body.get("model", self.model) != self.model:
            raise ConfigError(f"a request for {body['model']!r} was put to endpoints that serve {self.model!r}")
        content = json.dumps({**body, "model": self.model}, allow_nan=False).encode()
        tried: set[int] = set()
        served: dict[int, int] = {}  # answers that an endpoint had given when this request last came to it
        failed, pauses = 0, 0
        while True:
            state = self._take(tried)
            if state is None:
                queued, wait = False, None
            else:
                before = served.get(id(state), state.answered)
                served[id(state)] = state.answered
                try:
                    return self._answer(state, path, content)
                except Fault as fault:
                    queued, wait = fault.busy and state.answered > before, fault.wait
                    tried.add(id(state))
            failed += not queued
            if failed >= self._attempts:
                raise self._given_up(failed)
            if state is None or not self._others(tried):
                tried.clear()
                pause = min(self._pause * 2 ** min(pauses, 20), LONGEST_PAUSE) if wait is None else wait
                pauses += 1
                self._stop.wait(pause * self._random.uniform(1.0, 1.5))

    def close(self) -> None:
        """Closes the connections; requests that wait for another attempt end with an error."""
        self._stop.set()
        with self._change:
            self._change.notify_all()
        for state in self._states:
            state.connection.close()

    def __enter__(self) -> Endpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ── who is asked ──

    def _take(self, tried: set[int]) -> _State | None:
        """An endpoint with room, once there is one, now counted as busier; None if all are set aside."""
        while True:
            with self._change:
                if self._stop.is_set():
                    raise EndpointError("the endpoints were closed while a request waited for them")
                now = time.monotonic()
                for due in (s for s in self._states if not s.healthy and not s.checking and s.check_at <= now):
                    due.checking = True
                    # beside us, so that a host that swallows packets keeps no request from the healthy ones
                    threading.Thread(target=self._look_again, args=(due,), daemon=True).start()
                state = self._choose(tried, now)
                if state is not None:
                    state.in_flight += 1
                    return state
                if not any(s.healthy or s.checking for s in self._states):
                    return None
                resting = [s.rest_until - now for s in self._states if s.healthy and s.rest_until > now]
                self._change.wait(min([*resting, 1.0]))

    def _choose(self, tried: set[int], now: float) -> _State | None:
        free = [s for s in self._states if s.healthy and s.in_flight < s.endpoint.concurrency and s.rest_until <= now]
        return min(
            free,
            key=lambda s: (id(s) in tried, s.in_flight / s.endpoint.concurrency, s.answered),
            default=None,
        )

    def _others(self, tried: set[int]) -> bool:
        """Whether a healthy endpoint is left that has not failed this request."""
        with self._change:
            now = time.monotonic()
            return any(s.healthy and s.rest_until <= now and id(s) not in tried for s in self._states)

    def _look_again(self, state: _State) -> None:
        """Asks an endpoint that was set aside whether it is back."""
        reason: str | None = None
        try:
            state.connection.require_model()
        except Fault as fault:
            reason = fault.reason
        except EndpointError as error:
            reason = str(error)
        finally:
            with self._change:
                state.checking = False
                state.checks += 1
                state.check_at = time.monotonic() + min(self._recheck, self._pause * 2 ** min(state.checks, 20))
                if reason is None:
                    # one more failure sets it aside again: listing models proves less than answering
                    state.healthy, state.failures = True, FAILURES - 1
                    log.info("%s: is back", state.endpoint.url)
                else:
                    state.reason = reason
                self._change.notify_all()

    # ── one attempt ──

    def _answer(self, state: _State, path: str, content: bytes) -> Answer:
        try:
            body = state.connection.post(path, content)
        except Fault as fault:
            self._failed(state, fault)
            raise
        else:
            with self._change:
                state.answered += 1
                state.failures = state.checks = 0
            return Answer(state.endpoint.url, body)
        finally:
            with self._change:
                state.in_flight -= 1
                self._change.notify_all()

    def _failed(self, state: _State, fault: Fault) -> None:
        with self._change:
            now = time.monotonic()
            state.failed += 1
            state.reason = fault.reason
            if fault.wait is not None:
                state.rest_until = max(state.rest_until, now + fault.wait)
            if fault.busy:
                return
            state.failures += 1
            if state.healthy and state.failures >= FAILURES:
                state.healthy = False
                state.check_at = now + min(self._recheck, self._pause * 2 ** min(state.checks, 20))
                log.warning("%s: set aside after %d failures (%s)", state.endpoint.url, state.failures, fault.reason)

    def _given_up(self, failed: int) -> EndpointError:
        health = self.health()
        told = "; ".join(f"{h.url}: {h.reason or 'no fault'}" for h in health if h.reason or not h.healthy)
        what = "no server answers" if not any(h.healthy for h in health) else "a request was given up"
        return EndpointError(
            f"{what} after {failed} attempts ({told}). What is finished is kept; see to the servers, then run the same "
            "command again"
        )


# ── many requests at once ──


def fan_out(work: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """Results as they become ready, by so many threads.

    Nothing is taken from ``items`` further ahead than twice the workers, so a slow caller holds the servers back. After
    a failure nothing new begins; what is under way ends and is handed on before the failure is raised. A caller who
    stops early is not kept waiting: threads that still wait for a server end by themselves.

    Args:
        work: called in a thread.
        items: what it is called with.
        workers: threads.
    """
    crew, source = _Crew(work, workers), iter(items)
    failure: BaseException | None = None
    try:
        while True:
            while failure is None and crew.under_way < 2 * workers and (item := _next(source)):
                crew.begin(item)
            if not crew.under_way:
                break
            result, error = crew.end()
            if error is None:
                yield from result
            elif failure is None:
                failure = error
                crew.take_back()
        if failure is not None:
            raise failure
    finally:
        crew.dismiss()


def _next(source: Iterator[A]) -> tuple[A] | None:
    for item in source:
        return (item,)
    return None


@dataclass(slots=True)
class _Crew(Generic[A, B]):
    """Threads, started as they are needed; daemons, so that a silent server does not keep the process alive."""

    work: Callable[[A], B]
    most: int
    under_way: int = 0
    threads: int = 0
    todo: queue.SimpleQueue[tuple[A] | None] = field(default_factory=queue.SimpleQueue)
    done: queue.SimpleQueue[tuple[tuple[B, ...], BaseException | None]] = field(default_factory=queue.SimpleQueue)

    def _labour(self) -> None:
        while (item := self.todo.get()) is not None:
            try:
                self.done.put(((self.work(*item),), None))
            except BaseException as error:  # raised again where the results are read
                self.done.put(((), error))

    def begin(self, item: tuple[A]) -> None:
        self.todo.put(item)
        self.under_way += 1
        if self.threads < min(self.most, self.under_way):
            threading.Thread(target=self._labour, daemon=True, name=f"fan-out-{self.threads}").start()
            self.threads += 1

    def end(self) -> tuple[tuple[B, ...], BaseException | None]:
        ended = self.done.get()
        self.under_way -= 1
        return ended

    def take_back(self) -> None:
        """Drops what no thread began."""
        while True:
            try:
                self.todo.get_nowait()
            except queue.Empty:
                return
            self.under_way -= 1

    def dismiss(self) -> None:
        self.take_back()
        for _ in range(self.threads):
            self.todo.put(None)
