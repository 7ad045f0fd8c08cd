"""From what a config or a command line says to who scores, judging models included."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from trueup.errors import ConfigError
from trueup.feedback.base import Scorer
from trueup.feedback.hearing import Manner
from trueup.feedback.local import LocalSpeaker
from trueup.feedback.parse import open_scorer
from trueup.feedback.ranking import JudgeScorer
from trueup.feedback.remote import RemoteSpeaker
from trueup.feedback.speaker import Speaker
from trueup.feedback.verdict import HELPFUL, Rubric
from trueup.models.endpoint import Endpoints
from trueup.models.wire import Endpoint
from trueup.recipes.answers import Servers, open_sampler
from trueup.recipes.build import Machine

Speaking = Callable[[], AbstractContextManager[Speaker]]

_KEYS = ("judge", "rubric", "by", "cache", "way", "max_tokens")
_SERVER_KEYS = ("server", "model", "key_env", "concurrency")
_CHOICES = {"by": ("compare", "grade"), "way": ("auto", "logprobs", "parsed")}


def is_judge(spec: Any) -> bool:
    """Whether a spec names a judging model."""
    return isinstance(spec, Mapping) and "judge" in spec


def open_scoring(spec: str | Mapping[str, Any], machine: Machine, *, cache: Path | None = None) -> Scorer:
    """Opens who scores: as :func:`trueup.feedback.parse.open_scorer`, and judging models.

    Args:
        spec: besides what ``open_scorer`` takes, ``{judge: MODEL}`` or ``{judge: {server: URL, model: NAME, key_env,
            concurrency}}`` (``server`` may be a list) with ``rubric``, ``by``: compare or grade, ``cache``, ``way``:
            auto, logprobs or parsed, ``max_tokens`` of a verdict in words.
        machine: of local models.
        cache: file for the calls where the spec names none.

    Raises:
        ConfigError: a spec that says nothing sensible.
        ModelError: a model that cannot be used, or a server that does not serve it.
    """
    if not isinstance(spec, Mapping) or "judge" not in spec:
        return open_scorer(spec, device=machine.device)
    _known(spec, _KEYS, "reward")
    for key, allowed in _CHOICES.items():
        if spec.get(key, allowed[0]) not in allowed:
            raise ConfigError(f"reward.{key}: {spec[key]!r} is none of {', '.join(allowed)}")
    rubric, kept, tokens = spec.get("rubric"), spec.get("cache"), spec.get("max_tokens", 256)
    if rubric is not None and (not isinstance(rubric, str) or not rubric.strip()):
        raise ConfigError(f"reward.rubric: what makes an answer better is expected, in words; got {rubric!r}")
    if kept is not None and not isinstance(kept, str):
        raise ConfigError(f"reward.cache: the name of a file is expected, got {kept!r}")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ConfigError(f"reward.max_tokens: a number of tokens is expected, got {tokens!r}")
    return JudgeScorer(
        open_speaking(spec["judge"], machine), by=spec.get("by", "compare"),
        rubric=HELPFUL if rubric is None else Rubric(rubric), cache=Path(kept) if kept else cache,
        manner=Manner(way=spec.get("way", "auto"), max_tokens=tokens),
    )  # fmt: skip


def open_speaking(who: Any, machine: Machine) -> Speaking:
    """What opens a judging model: one in this process is loaded once, servers are checked once.

    Raises:
        ConfigError: neither a model nor servers.
        ModelError: as :func:`open_scoring`.
    """
    if isinstance(who, Mapping):
        _known(who, _SERVER_KEYS, "reward.judge")
        urls, model = who.get("server"), who.get("model")
        urls = [urls] if isinstance(urls, str) else urls
        if not isinstance(urls, list) or not urls or not isinstance(model, str):
            raise ConfigError("reward.judge: {server: URL, model: NAME} is expected")
        return speaking_servers(Servers(tuple(
            Endpoint(str(url), model, api_key_env=who.get("key_env"), concurrency=int(who.get("concurrency", 8)))
            for url in urls
        )))  # fmt: skip
    if not isinstance(who, str) or not who:
        raise ConfigError(f"reward.judge: a model, or {{server: URL, model: NAME}}, is expected, got {who!r}")
    speaker = LocalSpeaker(open_sampler(who, machine))
    return lambda: nullcontext(speaker)


def speaking_servers(servers: Servers) -> Speaking:
    """What opens a judging model behind servers, which are checked now.

    Raises:
        ModelError: a server that does not serve it.
    """
    with Endpoints(servers.endpoints) as endpoints:
        endpoints.check()

    @contextmanager
    def opened() -> Iterator[Speaker]:
        with Endpoints(servers.endpoints) as endpoints:
            yield RemoteSpeaker(endpoints)

    return opened


def _known(spec: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in spec:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"{where}.{key}: unknown{hint}; known: {', '.join(keys)}")
