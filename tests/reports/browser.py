"""A headless Chromium that is driven over a pipe: what it asked for, what it complained of, and what it shows."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BINARY = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
PATIENCE = 30.0


@dataclass
class Page:
    """One tab.

    Attributes:
        complaints: console errors, exceptions, and what the security policy refused.
        requests: addresses that were asked for.
    """

    browser: Browser
    session: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    loaded: bool = False

    def do(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, params, self.session)

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        found = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))


class Browser:
    def __init__(self, home: Path) -> None:
        assert BINARY is not None
        to_them, ours = os.pipe()
        theirs, from_them = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in (to_them, from_them)]
        os.close(to_them)
        os.close(from_them)
        words = [BINARY, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
                 "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={home}"]  # fmt: skip
        actions = [(os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4)]
        actions += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        env = {**os.environ, "HOME": str(home)}
        self.pid = os.posix_spawn(BINARY, words, env, file_actions=actions, setpgroup=0)
        for fd in high:
            os.close(fd)
        self.writer, self.reader = ours, theirs
        self.rest, self.number, self.pages = b"", 0, {}

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        os.write(self.writer, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            answer = self._next(until)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self._heard(answer)

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self.rest:
            assert time.monotonic() < until, "the browser does not answer"
            piece = os.read(self.reader, 1 << 20)
            assert piece, "the browser is gone"
            self.rest += piece
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def _heard(self, event: dict[str, Any]) -> None:
        page = self.pages.get(event.get("sessionId"))
        method, params = event.get("method"), event.get("params", {})
        if page is None:
            return
        if method == "Runtime.exceptionThrown":
            page.complaints.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            page.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            page.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            page.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            page.loaded = True

    @contextmanager
    def page(self, path: Path, width: int = 1280, *, dark: bool = False) -> Iterator[Page]:
        """A tab that has loaded a file."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self.pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.do(f"{domain}.enable")
        page.do("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.do("Emulation.setEmulatedMedia", features=scheme)
        page.do("Page.navigate", url=path.as_uri())
        until = time.monotonic() + PATIENCE
        while not page.loaded:
            self._heard(self._next(until))
        yield page
        self.call("Target.closeTarget", {"targetId": target})

    def close(self) -> None:
        os.close(self.writer)
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.reader)
