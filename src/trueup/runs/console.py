"""What a person sees while a run goes: a progress bar on a terminal, plain lines elsewhere, tables at the end.

Texts of models and data never reach the terminal raw: control characters are shown as escapes and markup is not read.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_KEPT = "\n\t\u200c\u200d"  # the last two are parts of emoji and of several scripts
_SHOWN = ("loss", "accuracy", "margin", "lr")


def safe(text: str) -> str:
    """The text with control characters (all but newline and tab) as escapes, so that it cannot steer a terminal."""
    return "".join(
        c if c in _KEPT or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else c.encode("unicode_escape").decode()
        for c in text
    )


def figure(value: Any) -> str:
    """A number in at most eight characters or so; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return safe(str(value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4f}"


def duration(seconds: float) -> str:
    """Seconds as ``42s``, ``3m05s`` or ``2h07m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


class Bar:
    """Progress of a run; a context manager.

    On a terminal a bar that is redrawn; elsewhere (a pipe, a log file) a line at the first step, at the last, and at
    least ``every`` seconds apart in between.

    Args:
        total: steps of the whole run.
        label: what is being done.
        done: steps that were done before (a resumed run).
        shown: names of the metrics shown, in this order; those that a step lacks are left out.
        console: where to; standard error if None.
        every: seconds between plain lines.
        clock: gives seconds.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        done: int = 0,
        shown: Sequence[str] = _SHOWN,
        console: Console | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(stderr=True)
        self._total, self._label, self._begun, self._shown = total, safe(label), done, tuple(shown)
        self._every, self._clock = every, clock
        self._start = clock()
        self._last: float | None = None
        self._bar: Progress | None = None

    def __enter__(self) -> Bar:
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                console=self.console,
            )
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._begun, figures="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows that ``step`` steps are done, and the metrics of the last one."""
        figures = "  ".join(f"{name} {figure(metrics[name])}" for name in self._shown if name in metrics)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=figures)
            return
        now = self._clock()
        if self._last is not None and step < self._total and now - self._last < self._every:
            return
        self._last = now
        self._line(f"{self._label}: step {step}/{self._total}  {figures}{self._rest(step, now)}")

    def _rest(self, step: int, now: float) -> str:
        fresh = step - self._begun
        if fresh <= 0 or step >= self._total:
            return f"  took {duration(now - self._start)}" if step >= self._total else ""
        return f"  {duration((now - self._start) / fresh * (self._total - step))} left"

    def note(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        self._line(safe(text))

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, console: Console | None = None
) -> None:
    """Prints a table: the first column to the left, numbers to the right.

    Args:
        title: above the table.
        columns: headings.
        rows: as many values each; numbers are shown with :func:`figure`.
        console: where to; standard output if None.
    """
    table = Table(title=Text(safe(title)), title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(Text(safe(name)), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(figure(v)) for _, v in zip(columns, row, strict=True)))
    (console or Console()).print(table)


def show_texts(title: str, texts: Mapping[str, str], *, console: Console | None = None) -> None:
    """Prints texts under headings, such as a prompt and the answers before and after.

    Args:
        title: above them.
        texts: heading -> text.
        console: where to; standard output if None.
    """
    out = console or Console()
    out.print(Text(safe(title), style="bold"))
    for name, text in texts.items():
        out.print(Text(f"{safe(name)}:", style="dim"))
        out.print(Text("  " + safe(text).replace("\n", "\n  ")), soft_wrap=True)
