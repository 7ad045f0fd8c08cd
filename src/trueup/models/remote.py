"""Sampling by servers: one request an answer, as many at once as the endpoints take, results as they become ready."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trueup.data.render import Renderer, RowRejected
from trueup.errors import ConfigError, DataError
from trueup.models.endpoint import Answer, Endpoints, fan_out
from trueup.models.sample import PromptIds
from trueup.models.sampling import Finish, Indices, Sample, Sampling, Speed, answer_seed
from trueup.models.wire import EndpointError
from trueup.types import Prompt

Dialect = Literal["open", "openai"]
Reported = Literal["raw", "processed"]

_FINISH: Mapping[str, Finish] = {"stop": "stop", "length": "length"}
_ROW_AT_FAULT = {400, 413, 422}  # the server works, and does not take this prompt or these settings
_SLACK = 1e-4  # a log-probability may pass 0 by rounding


@dataclass(frozen=True, slots=True)
class _Ask:
    """One answer to be had: ``path`` and ``body`` lack only its seed; ``text`` is what the seed is drawn from."""

    prompt: str
    origin: str
    index: int
    path: str
    body: Mapping[str, Any]
    text: bytes | str


class RemoteSampler:
    """Draws from a model behind endpoints.

    Conversations go to ``/v1/chat/completions`` and the server's chat template; raw text goes to ``/v1/completions`` as
    it is. With a renderer both are made into tokens here, exactly as for training, and go to ``/v1/completions``.

    Args:
        endpoints: who serves; not closed by this class.
        renderer: how prompts become tokens; None: the server's own way. Only the ``open`` dialect takes tokens.
        identity: version of the weights, stands in every sample; None: the model's name and the addresses.
        dialect: ``open``: vLLM, SGLang, llama.cpp: every filter is sent, so that no default of the server or of the
            model's generation settings acts unasked. ``openai``: only what the hosted API knows; a filter beyond
            temperature and top-p is an error.
        logprobs: what the server reports, or None to ask for none. ``raw``: under the model as it is (vLLM's default);
            ``processed``: under the distribution drawn from (vLLM's ``--logprobs-mode processed_logprobs``).
        token_ids: ask for the sampled ids, which vLLM gives; a server that gives none is an error.

    Attributes:
        speed: counts of everything sampled so far; its seconds pass while requests are under way, the caller's own
            work between two answers included.

    Raises:
        ConfigError: a renderer or token ids in the ``openai`` dialect.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        renderer: Renderer | None = None,
        identity: str | None = None,
        dialect: Dialect = "open",
        logprobs: Reported | None = None,
        token_ids: bool = False,
    ) -> None:
        if dialect == "openai" and (renderer is not None or token_ids):
            raise ConfigError("server: the hosted OpenAI API takes and gives no token ids; leave them out")
        self.endpoints, self.renderer, self.dialect = endpoints, renderer, dialect
        self.logprobs, self.token_ids = logprobs, token_ids
        self._identity = f"{endpoints.model} at {', '.join(endpoints.urls)}" if identity is None else identity
        self.speed = Speed()

    @property
    def identity(self) -> str:
        """What draws."""
        return self._identity

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, indices: Indices | None = None) -> Iterator[Sample]:
        """Draws ``sampling.n`` answers to each prompt, as they become ready.

        When one cannot be had, no further request begins, those under way end and are handed on, then the error comes.

        Args:
            prompts: conversations or raw text.
            sampling: how.
            indices: which answers of a prompt (by its id) are wanted; None: ``range(n)``.

        Raises:
            DataError: an empty prompt, one that cannot be rendered, or one that a server refuses as too long.
            ConfigError: a filter that the dialect lacks.
            EndpointError: an endpoint that answers wrongly, or none that answers.
        """
        if self.renderer is not None:
            return self.sample_ids(_rendered(self.renderer, prompts), sampling, indices)
        asked: list[tuple[str, str, str, dict[str, Any], bytes | str]] = []
        for row in prompts:
            if not row.prompt:
                raise DataError(f"{row.origin}: prompt: empty")
            if isinstance(row.prompt, str):
                asked.append((row.id, row.origin, "/completions", {"prompt": row.prompt}, row.prompt))
            else:
                body: dict[str, Any] = {"messages": [dict(t) for t in row.prompt]}
                body |= {"tools": list(row.tools)} if row.tools else {}
                text = json.dumps(body, sort_keys=True, ensure_ascii=False)
                asked.append((row.id, row.origin, "/chat/completions", body, text))
        return self._begin(asked, sampling, indices)

    def sample_ids(
        self, prompts: Sequence[PromptIds], sampling: Sampling, indices: Indices | None = None
    ) -> Iterator[Sample]:
        """The same for prompts that are tokens already.

        Raises:
            DataError, ConfigError, EndpointError: as for :meth:`sample`.
        """
        if self.dialect == "openai":
            raise ConfigError("server: the hosted OpenAI API takes no token ids; give it text")
        asked: list[tuple[str, str, str, dict[str, Any], bytes | str]] = []
        for prompt in prompts:
            if len(prompt.ids) == 0:
                raise DataError(f"{prompt.id}: prompt: empty")
            ids = prompt.ids.astype(np.int32)
            asked.append((prompt.id, prompt.id, "/completions", {"prompt": ids.tolist()}, ids.tobytes()))
        return self._begin(asked, sampling, indices)

    def _begin(
        self,
        asked: Sequence[tuple[str, str, str, dict[str, Any], bytes | str]],
        sampling: Sampling,
        indices: Indices | None,
    ) -> Iterator[Sample]:
        if not asked:
            raise DataError("sampling: there is no prompt")
        settings = {path: self._settings(sampling, path) for path in ("/completions", "/chat/completions")}
        asks = (
            _Ask(name, origin, k, path, {**body, **settings[path]}, text)
            for name, origin, path, body, text in asked
            for k in (range(sampling.n) if indices is None else indices(name))
        )
        return self._counted(fan_out(lambda ask: self._one(ask, sampling), asks, self.endpoints.capacity))

    def _counted(self, answers: Iterator[tuple[Sample, int]]) -> Iterator[Sample]:
        before, begun = self.speed.seconds, time.perf_counter()
        for sample, tokens in answers:
            self.speed.seconds = before + time.perf_counter() - begun
            self.speed.answers += 1
            self.speed.tokens += tokens
            self.speed.truncated += sample.finish == "length"
            yield sample

    # ── a request ──

    def _settings(self, sampling: Sampling, path: str) -> dict[str, Any]:
        chat = path == "/chat/completions"
        body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "n": 1}
        body["max_completion_tokens" if chat and self.dialect == "openai" else "max_tokens"] = sampling.max_new_tokens
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self.logprobs is not None:
            body["logprobs"] = True if chat else 1  # 0 would mean none to some servers
        if self.dialect == "openai":
            if sampling.top_k or sampling.min_p or sampling.stop_ids:
                raise ConfigError("sampling: the hosted OpenAI API knows no top_k, min_p and stop_ids; leave them out")
            return body
        # said outright, because servers fill gaps from their own defaults or the model's generation settings
        body |= {"top_k": sampling.top_k or -1, "min_p": sampling.min_p, "repetition_penalty": 1.0}
        if sampling.stop_ids:
            body["stop_token_ids"] = list(sampling.stop_ids)
        if self.token_ids:
            body["return_token_ids"] = True
        return body

    def _one(self, ask: _Ask, sampling: Sampling) -> tuple[Sample, int]:
        """One answer, and how many tokens it has."""
        seed = answer_seed(sampling.seed, ask.text, ask.index) & 0x7FFFFFFF  # servers take 31 bits
        try:
            answer = self.endpoints.ask(ask.path, {**ask.body, "seed": seed})
        except EndpointError as error:
            if error.status in _ROW_AT_FAULT:
                raise DataError(f"{ask.origin}: prompt: {error}") from None
            raise
        choice = _only_choice(answer, ask)
        finish = _FINISH.get(str(choice.get("finish_reason")))
        if finish is None:
            raise _wrong(answer, ask, f"ended an answer with {choice.get('finish_reason')!r}, not stop or length")
        text = _text(answer, choice, ask)
        entries = _entries(answer, choice, ask) if self.logprobs is not None else None
        ids = self._ids(answer, choice, ask)
        tokens = _count(answer, ids, entries, finish, ask)
        drawn, model = self._columns(entries, sampling)
        sample = Sample(
            prompt=ask.prompt,
            index=ask.index,
            text=text,
            ids=ids,
            logprobs=drawn,
            model_logprobs=model,
            finish=finish,
            policy=self._identity,
            tokens=tokens,
        )
        return sample, tokens

    def _ids(self, answer: Answer, choice: Mapping[str, Any], ask: _Ask) -> np.ndarray | None:
        if not self.token_ids:
            return None
        ids = choice.get("token_ids")
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
            raise _wrong(
                answer, ask, f"gave token ids that are none ({str(ids)[:80]}); of the servers, vLLM gives them"
            )
        return np.array(ids, dtype=np.int32)

    def _columns(self, entries: list[float] | None, sampling: Sampling) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Log-probabilities under the distribution drawn from, and under the model; each where it can be known."""
        if entries is None:
            return None, None
        given = np.array(entries, dtype=np.float64)
        plain = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (1.0, 0, 1.0, 0.0)
        if self.logprobs == "processed":
            return given, given if plain else None
        if sampling.temperature == 0:
            return np.zeros_like(given), given
        return given if plain else None, given


# ── reading an answer ──


def _wrong(answer: Answer, ask: _Ask, what: str) -> EndpointError:
    return EndpointError(f"{answer.url}: {what} (prompt {ask.prompt!r}, answer {ask.index})", url=answer.url)


def _only_choice(answer: Answer, ask: _Ask) -> Mapping[str, Any]:
    choices = answer.body["choices"]
    if len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise _wrong(answer, ask, f"gave {len(choices)} choices where one was asked for")
    return choices[0]


def _text(answer: Answer, choice: Mapping[str, Any], ask: _Ask) -> str:
    """The answer's text; a refusal of the server and a tool call are none."""
    if ask.path == "/completions":
        text = choice.get("text")
    else:
        message = choice.get("message")
        message = message if isinstance(message, Mapping) else {}
        if message.get("refusal"):
            raise _wrong(answer, ask, f"refused to answer: {str(message['refusal'])[:200]!r}")
        text = message.get("content")
    if not isinstance(text, str):
        raise _wrong(answer, ask, "gave an answer without text")
    return text


def _entries(answer: Answer, choice: Mapping[str, Any], ask: _Ask) -> list[float]:
    """Log-probabilities of the tokens of an answer, in either of the two shapes in use."""
    given = choice.get("logprobs")
    if not isinstance(given, Mapping):
        raise _wrong(answer, ask, "gave no log-probabilities, which were asked for")
    if isinstance(given.get("content"), list):
        found: Any = [e.get("logprob") if isinstance(e, Mapping) else None for e in given["content"]]
    else:
        found = given.get("token_logprobs")
    if not isinstance(found, list) or not all(_logprob(x) for x in found):
        raise _wrong(answer, ask, f"gave log-probabilities in a wrong shape: {str(found)[:120]}")
    return [float(x) for x in found]


def _logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value <= _SLACK


def _count(answer: Answer, ids: np.ndarray | None, entries: list[float] | None, finish: Finish, ask: _Ask) -> int:
    """Tokens of an answer; the three places that tell must agree.

    Where no ids are given, a server may leave the ending token out of the log-probabilities.
    """
    usage = answer.body.get("usage")
    used = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    if type(used) is not int or used < 0:
        raise _wrong(answer, ask, "did not tell how many tokens it used")
    if ids is not None and len(ids) != used:
        raise _wrong(answer, ask, f"gave {len(ids)} token ids for {used} tokens")
    if entries is not None and len(entries) != used:
        missing = used - len(entries)
        if ids is not None or finish != "stop" or missing != 1:
            raise _wrong(answer, ask, f"gave {len(entries)} log-probabilities for {used} tokens")
    return used


def _rendered(renderer: Renderer, prompts: Sequence[Prompt]) -> list[PromptIds]:
    found: list[PromptIds] = []
    for row in prompts:
        try:
            found.append(PromptIds(id=row.id, ids=renderer.prompt(row)))
        except RowRejected as error:
            raise DataError(f"{row.origin}: {error}") from None
    return found
