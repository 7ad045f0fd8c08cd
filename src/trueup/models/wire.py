"""One HTTP exchange with an OpenAI-compatible server: sent within a time, read with distrust.

What another attempt may mend is a :class:`Fault`; what it will not is an :class:`EndpointError`.
"""

from __future__ import annotations

import email.utils
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx2

from trueup.errors import ConfigError, ModelError
from trueup.runs.scrub import remember, scrub

CONNECT = 10.0  # seconds to reach a server, and to hear which models it serves
LONGEST_WAIT = 600.0  # seconds; a server that asks for more has run out of quota, and waiting would look like a hang
LARGEST = 64 * 2**20  # bytes of an answer
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class EndpointError(ModelError):
    """A server that cannot be used, or that refused a request.

    Attributes:
        url: of the endpoint; empty if the error is about all of them.
        status: of its answer; None if there was none.
    """

    def __init__(self, message: str, *, url: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.url, self.status = url, status


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served.

    Attributes:
        url: ``http://host:port``, with or without ``/v1``.
        model: the name it serves it by.
        api_key_env: environment variable that holds the key; None: no key is sent.
        concurrency: requests at once.
        timeout: seconds within which an answer must be complete.
        attempts: times a request is made before it is given up.

    Raises:
        ConfigError: a URL that is none, or numbers that make no sense.
    """

    url: str
    model: str
    api_key_env: str | None = None
    concurrency: int = 8
    timeout: float = 60.0
    attempts: int = 6

    def __post_init__(self) -> None:
        parts = _split(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"server: {scrub(self.url)!r} is no http:// or https:// address")
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                f"server: {scrub(self.url)}: a name or password in the address would be logged; put the key into an "
                "environment variable and name that"
            )
        if parts.query or parts.fragment:
            raise ConfigError(f"server: {scrub(self.url)}: has a query or a fragment; end it at /v1")
        checks = {
            "model": bool(self.model),
            "concurrency": self.concurrency >= 1,
            "timeout": 0 < self.timeout < float("inf"),
            "attempts": self.attempts >= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise ConfigError(f"server {self.url}: {name}: {getattr(self, name)!r} makes no sense")

    @property
    def base(self) -> str:
        """The address that ``/models`` and ``/chat/completions`` are put after."""
        bare = self.url.rstrip("/")
        return bare if bare.endswith("/v1") else bare + "/v1"

    def key(self) -> str | None:
        """The key, from the environment.

        Raises:
            ConfigError: the variable is not set, or holds what no header can.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ConfigError(f"server {self.url}: the environment variable {self.api_key_env} is not set")
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(
                f"server {self.url}: the key in {self.api_key_env} has characters that no header can hold"
            )
        remember(key)
        return key


class Fault(Exception):
    """A failed attempt that may succeed if it is made again.

    Attributes:
        reason: in words.
        busy: a 429: the server works, and has no room for this.
        wait: seconds that it asked to be left alone; None if it did not say.
    """

    def __init__(self, reason: str, *, busy: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.busy, self.wait = reason, busy, wait


class Connection:
    """Connections to one endpoint, kept open between requests; safe to call from many threads.

    Args:
        endpoint: where; its key is read now.

    Raises:
        ConfigError: the key is not there.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        key = endpoint.key()
        # a proxy of the environment is for the world outside, never for this machine
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_connections=endpoint.concurrency + 1),
            trust_env=_split(endpoint.url).hostname not in _LOOPBACK,
            follow_redirects=False,
        )

    def post(self, path: str, content: bytes) -> dict[str, Any]:
        """The JSON object with ``choices`` that answers a request, from the model that was asked.

        Raises:
            Fault: 408, 429, 5xx, silence, a broken connection, half an answer.
            EndpointError: refused, redirected, or answered by another model.
        """
        body = self._read(*self._send("POST", path, content, self.endpoint.timeout))
        _same_model(self.endpoint, body)
        return body

    def models(self) -> list[str]:
        """Names of the models that the server lists.

        Raises:
            Fault, EndpointError: as for :meth:`post`.
        """
        body = self._read(*self._send("GET", "/models", None, min(CONNECT, self.endpoint.timeout)))
        listed = body.get("data")
        if not isinstance(listed, list) or not all(
            isinstance(m, dict) and isinstance(m.get("id"), str) for m in listed
        ):
            url = self.endpoint.url
            raise EndpointError(f"{url}: /v1/models lists no models; is it an OpenAI-compatible server?", url=url)
        return [m["id"] for m in listed]

    def require_model(self) -> None:
        """Sees that the server lists the endpoint's model.

        Raises:
            Fault: out of reach.
            EndpointError: it serves others; they are named.
        """
        models, asked, url = self.models(), self.endpoint.model, self.endpoint.url
        if asked not in models:
            names = ", ".join(map(repr, models)) or "nothing"
            raise EndpointError(f"{url}: serves {names}, not {asked!r}", url=url)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _send(self, method: str, path: str, content: bytes | None, timeout: float) -> tuple[httpx2.Response, bytes]:
        """One request, complete within ``timeout`` seconds even if the bytes drip."""
        limits = httpx2.Timeout(timeout, connect=min(CONNECT, timeout))
        deadline = time.monotonic() + timeout
        raw = bytearray()
        kind = {"Content-Type": "application/json"}
        try:
            with self._client.stream(
                method, self.endpoint.base + path, content=content, headers=kind, timeout=limits
            ) as response:
                for part in response.iter_bytes():
                    raw += part
                    if time.monotonic() > deadline:
                        raise Fault(f"sent only {len(raw)} bytes within {timeout:g} s")
                    if len(raw) > LARGEST:
                        raise EndpointError(f"{self.endpoint.url}: an answer larger than {LARGEST >> 20} MiB")
        except httpx2.TimeoutException as error:
            what = "cannot be reached" if isinstance(error, httpx2.ConnectTimeout) else "no answer"
            raise Fault(f"{what} within {timeout:g} s") from None
        except httpx2.RequestError as error:
            raise Fault(f"{error or type(error).__name__}") from None
        except RuntimeError:
            if not self._client.is_closed:
                raise
            raise EndpointError(f"{self.endpoint.url}: its connections were closed during a request") from None
        return response, bytes(raw)

    def _read(self, response: httpx2.Response, raw: bytes) -> dict[str, Any]:
        """The JSON object of a good answer."""
        status, url = response.status_code, self.endpoint.url
        if status == 429 or status == 408 or status >= 500:
            wait = _retry_after(response.headers.get("retry-after"))
            if wait is not None and wait > LONGEST_WAIT:
                raise EndpointError(
                    f"{url}: {status}, and asks to wait {wait:,.0f} s: {_told(raw)}", url=url, status=status
                )
            raise Fault(f"{status}: {_told(raw)}", busy=status == 429, wait=wait)
        if 300 <= status < 400:
            to = scrub(response.headers.get("location", "nowhere"))
            raise EndpointError(f"{url}: redirects to {to}; name that address if it is yours", url=url, status=status)
        if status != 200:
            raise EndpointError(f"{url}: refuses with {status}: {_told(raw)}", url=url, status=status)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            raise Fault(f"an answer of {len(raw)} bytes that is no complete JSON") from None
        if not isinstance(body, dict) or ("error" in body and "choices" not in body and "data" not in body):
            raise Fault(f"an answer that is none: {_told(raw)}")
        return body


def served_models(url: str, api_key_env: str | None = None) -> list[str]:
    """Names of the models that a server lists, asked once.

    Raises:
        ConfigError: no address, or a key that is not there.
        EndpointError: it is out of reach, or lists nothing readable.
    """
    connection = Connection(Endpoint(url, "?", api_key_env))
    try:
        return connection.models()
    except Fault as fault:
        raise EndpointError(f"{url}: {fault.reason}. Start the server, or mend the address", url=url) from None
    finally:
        connection.close()


def _told(raw: bytes) -> str:
    """What a server says went wrong, short and without secrets."""
    text = raw[:4096].decode("utf-8", "replace")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        text = str(message or body.get("detail") or text)
    words = " ".join(str(scrub(text)).split())
    return (words[:300] + " ..." if len(words) > 300 else words) or "(no reason given)"


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3); None if it says neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _same_model(endpoint: Endpoint, body: Mapping[str, Any]) -> None:
    """An answer names the model that was asked; a hosted alias may answer as its dated form."""
    if not isinstance(body.get("choices"), list):
        raise Fault("an answer without choices")
    named = body.get("model")
    dated = (
        isinstance(named, str)
        and named.startswith(endpoint.model + "-")
        and named[len(endpoint.model) :].replace("-", "").isdecimal()
    )
    if named == endpoint.model or dated:
        return
    raise EndpointError(
        f"{endpoint.url}: was asked for {endpoint.model!r} and answered as {named!r}; its answer was not used",
        url=endpoint.url,
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"server: {scrub(url)!r} is no address: {error}") from None
    return parts
