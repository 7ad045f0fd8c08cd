"""A small OpenAI-compatible server on loopback with faults to order, for tests and benchmarks.

In a test: ``with FakeOpenAI(faults=["429", "half"]) as server: ... server.url``. As a process:
``python tests/fake_openai.py --port 0 --latency 0.1`` prints its URL. An answer depends on the request's prompt and
seed alone. Faults: ``429``, ``429:SECONDS`` (Retry-After), any other status, ``silence``, ``drip`` (a byte at a time),
``half``, ``empty``, ``drop``, ``logprobs`` (one entry short), ``nan``, ``model`` (another name), ``filter``,
``refusal``, ``redirect``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def echo_number(request: dict[str, Any]) -> str:
    """A few words that depend on the prompt and the seed."""
    asked = json.dumps([request.get("messages", request.get("prompt")), request.get("seed")], sort_keys=True)
    return " ".join(hashlib.sha256(asked.encode()).hexdigest()[i : i + 4] for i in range(0, 24, 4))


class FakeOpenAI:
    """Serves ``model`` until the block ends.

    ``faults`` come one a request, in order (``ok`` is none), then ``chance`` (fault -> probability) decides; it shuts
    its doors after ``die_after`` answers. ``requests`` and ``headers`` hold what was asked; ``most`` how many at once.
    """

    def __init__(
        self,
        model: str = "tiny",
        *,
        reply: Callable[[dict[str, Any]], str] = echo_number,
        faults: Iterable[str] = (),
        chance: dict[str, float] | None = None,
        seed: int = 0,
        latency: float = 0.0,
        die_after: int | None = None,
        port: int = 0,
    ) -> None:
        self.model, self.reply, self.latency, self.die_after = model, reply, latency, die_after
        self.faults, self.chance, self.random = list(faults), chance or {}, random.Random(seed)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered = self.promised = self.now = self.most = self.listed = 0
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.http = _Server(("127.0.0.1", port), _Handler)
        self.http.fake = self
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> FakeOpenAI:
        self.thread.start()
        return self

    def close(self, *_: object) -> None:
        if not self.stop.is_set():
            self.stop.set()
            self.http.shutdown()
            self.http.server_close()

    __exit__ = close

    def fault(self, request: dict[str, Any]) -> str:
        if self.faults:
            return self.faults.pop(0)
        drawn, total = self.random.random(), 0.0
        for name, share in self.chance.items():
            total += share
            if drawn < total:
                return name
        return "ok"

    def answer(self, request: dict[str, Any], chat: bool, fault: str) -> dict[str, Any]:
        """The body of a good answer, bent as ``fault`` says."""
        limit = request.get("max_tokens", request.get("max_completion_tokens", 16))
        words = self.reply(request).split(" ")
        tokens = [w if i == 0 else " " + w for i, w in enumerate(words)][:limit]
        finish = "length" if len(words) > limit else "stop"
        listed = tokens if finish == "length" else [*tokens, "<end>"]  # the ending token counts
        probs = [-0.25 * (1 + len(t) % 4) for t in listed]
        if fault == "logprobs":
            probs.pop()
        if fault == "nan":
            probs[0] = float("nan")
        finish = "content_filter" if fault == "filter" else finish
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if request.get("return_token_ids"):
            choice["token_ids"] = [sum(t.encode()) for t in listed]
        text = "".join(tokens)
        if chat:
            refused = fault == "refusal"
            choice["message"] = {"role": "assistant", "content": None if refused else text}
            choice["message"] |= {"refusal": "I would rather not."} if refused else {}
            if request.get("logprobs"):
                top = request.get("top_logprobs", 0)
                choice["logprobs"] = {"content": [_entry(t, p, top) for t, p in zip(listed, probs, strict=False)]}
        else:
            choice["text"] = text
            if request.get("logprobs") is not None:
                choice["logprobs"] = {"tokens": listed, "token_logprobs": probs}
        model = "another" if fault == "model" else request["model"]
        return {"id": "x", "model": model, "choices": [choice], "usage": {"completion_tokens": len(listed)}}


def _entry(token: str, prob: float, top: int) -> dict[str, Any]:
    others = [{"token": token, "logprob": prob}, *({"token": f"t{i}", "logprob": prob - i} for i in range(1, top))]
    return {"token": token, "logprob": prob, "bytes": list(token.encode()), "top_logprobs": others[:top]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    fake: FakeOpenAI

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up is no event


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    log_message = lambda *_: None  # noqa: E731  # says nothing

    def do_GET(self) -> None:
        self.server.fake.listed += 1
        self._send(200, {"object": "list", "data": [{"id": self.server.fake.model, "object": "model"}]})

    def do_POST(self) -> None:
        fake = self.server.fake
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with fake.lock:
            fake.requests.append(request)
            fake.headers.append(dict(self.headers))
            fault = fake.fault(request)
            fake.now += 1
            fake.most = max(fake.most, fake.now)
        try:
            fake.stop.wait(fake.latency)
            self._serve(fake, request, fault)
        finally:
            with fake.lock:
                fake.now -= 1

    def _serve(self, fake: FakeOpenAI, request: dict[str, Any], fault: str) -> None:
        if fault == "drop" or (fault == "silence" and fake.stop.wait(60)) or fake.stop.is_set():
            self.close_connection = True
            return
        if fault[:3].isdecimal():
            code, _, wait = fault.partition(":")
            message = f"a planted {code}; sent {self.headers.get('Authorization')}"
            self._send(int(code), {"error": {"message": message}}, {"Retry-After": wait} if wait else {})
        elif fault == "redirect":
            self._send(307, {}, {"Location": "http://elsewhere.invalid/v1/chat/completions"})
        else:
            with fake.lock:
                fake.promised += 1
                if fake.die_after is not None and fake.promised > fake.die_after:
                    self.close_connection = True  # answers under way at once are no more than it was to give
                    return
            body = fake.answer(request, "chat" in self.path, fault)
            self._send(200, body, {}, fault)
            with fake.lock:
                fake.answered += 1
                if fake.answered == fake.die_after:
                    threading.Thread(target=fake.close, daemon=True).start()

    def _send(self, code: int, body: Any, headers: dict[str, str] | None = None, fault: str = "ok") -> None:
        raw = b"" if fault == "empty" else json.dumps(body).encode()
        raw = raw[: len(raw) // 2] if fault == "half" else raw
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        for part in [raw[i : i + 1] for i in range(len(raw))] if fault == "drip" else [raw]:
            self.wfile.write(part)
            if fault == "drip" and self.server.fake.stop.wait(0.1):
                return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--faults", default="", help="comma-separated, in order")
    parser.add_argument("--die-after", type=int)
    given = parser.parse_args()
    faults = [f for f in given.faults.split(",") if f]
    with FakeOpenAI(given.model, faults=faults, latency=given.latency, die_after=given.die_after, port=given.port) as s:
        print(s.url, flush=True)
        while not s.stop.is_set():
            time.sleep(0.05)


if __name__ == "__main__":
    main()
