"""A request to stop that the loop can honour between two steps."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """Whether somebody asked the run to stop.

    Attributes:
        signal: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """True from the first signal on."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a process ends with that stopped for the signal, as shells count: 128 + its number; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal.value


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Catches SIGTERM, SIGINT and SIGHUP: the first sets ``requested``, the second ends the process at once.

    From the first signal on the system's own handling is back, so that the second one needs no Python code to run. A
    signal that the process was started to ignore (``nohup``) stays ignored. Outside of the main thread Python allows
    no handlers; the log says so.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        log.warning("not in the main thread: signals will not save a checkpoint")
        yield stop
        return
    before = {s: signal.getsignal(s) for s in _SIGNALS}
    caught = [s for s in _SIGNALS if before[s] is not signal.SIG_IGN]

    def handle(number: int, _: FrameType | None) -> None:
        for each in caught:
            signal.signal(each, signal.SIG_DFL)
        stop.signal = signal.Signals(number)

    try:
        for each in caught:
            signal.signal(each, handle)
        yield stop
    finally:
        for each in caught:
            signal.signal(each, before[each])
