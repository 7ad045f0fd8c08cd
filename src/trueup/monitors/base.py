"""What monitors are made of: the history they read, the findings they return, and facts that no step tells.

A monitor is a pure function of (history, thresholds). It returns a :class:`Finding` for as long as what it watches is
wrong, or None; :mod:`trueup.monitors.watch` turns findings into alarms, one for each onset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trueup.thresholds import MonitorConfig

Level = Literal["warn", "alarm"]
Floats: TypeAlias = NDArray[np.float64]

KEPT = 128  # newest values of each metric: what the longest window needs
HEAD = 32  # first values of each metric, for comparison with the start


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What monitors must know of a run besides its steps.

    Attributes:
        total: planned steps; None: unknown.
        kl_target: wanted KL in nats an answer; None: none.
        beta: of a loss whose ``rewards/*`` are β (log π − log ρ); None: none.
        reference: the loss compares with a reference policy.
        reference_fixed: that reference is the same all along.
        low_precision: computed in bf16 or fp16.
        value_warmup: first steps in which only the value model learns.
        kl_unwanted: the settings say that there shall be no KL.
    """

    total: int | None = None
    kl_target: float | None = None
    beta: float | None = None
    reference: bool = False
    reference_fixed: bool = True
    low_precision: bool = False
    value_warmup: int = 0
    kl_unwanted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something is wrong at this step; the attributes are those of :class:`trueup.types.Alarm`.

    Attributes:
        level: ``warn`` or ``alarm``.
        seen: figures and threshold.
        cause: the likely one.
        action: what to do next.
        since: the first step of the condition, where the history tells it.
        values: the figures behind ``seen``.
    """

    level: Level
    seen: str
    cause: str
    action: str
    since: int | None = None
    values: Mapping[str, float] = field(default_factory=dict[str, float])


class _Column:
    """The newest values of a metric with their steps, in plain lists: what is cut from their ends is cheap."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[float] = []
        self.head: list[float] = []

    def add(self, step: int, value: float) -> None:
        if len(self.values) == 2 * KEPT:
            del self.values[:KEPT], self.steps[:KEPT]
        self.steps.append(step)
        self.values.append(value)
        if len(self.head) < HEAD:
            self.head.append(value)

    def backwards(self) -> Iterator[tuple[int, float]]:
        """The newest first, at most :data:`KEPT`."""
        return zip(reversed(self.steps[-KEPT:]), reversed(self.values[-KEPT:]), strict=True)


class History:
    """The metrics of a run so far, bounded: of each name the first :data:`HEAD` and the newest :data:`KEPT` values.

    Only finite values are kept; those of the newest step that are not finite stand in ``broken``.

    Attributes:
        facts: of the run.
        step: number of the newest step; 0 before the first.
        broken: non-finite metrics of the newest step.
    """

    def __init__(self, facts: Facts | None = None) -> None:
        self.facts = facts or Facts()
        self.step = 0
        self.broken: Mapping[str, float] = {}
        self._columns: dict[str, _Column] = {}

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes a step in."""
        self.step = step
        self.broken = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        for name, value in metrics.items():
            if name not in self.broken:
                if name not in self._columns:
                    self._columns[name] = _Column()
                self._columns[name].add(step, value)

    @property
    def size(self) -> int:
        """Numbers kept."""
        return sum(2 * len(c.values) + len(c.head) for c in self._columns.values())

    def recent(self, name: str, n: int, *, least: int | None = None) -> Floats | None:
        """The newest ``n`` values, oldest first, ``[m]``; None if there are fewer than ``least`` (None: ``n``)."""
        column = self._columns.get(name)
        if column is None or min(len(column.values), KEPT) < (n if least is None else least):
            return None
        return np.array(column.values[-min(n, KEPT) :])

    def last(self, name: str) -> float | None:
        """The newest value, of whatever step."""
        column = self._columns.get(name)
        return column.values[-1] if column else None

    def now(self, name: str) -> float | None:
        """The value at the newest step, if that logged it."""
        column = self._columns.get(name)
        return column.values[-1] if column and column.steps[-1] == self.step else None

    def steps(self, name: str, n: int) -> list[int]:
        """The steps of the newest ``n`` values, oldest first."""
        column = self._columns.get(name)
        return column.steps[-min(n, KEPT) :] if column else []

    def at(self, name: str, step: int) -> float | None:
        """The newest value of that step or before it."""
        column = self._columns.get(name)
        return next((v for s, v in column.backwards() if s <= step), None) if column else None

    def start(self, name: str, n: int) -> float | None:
        """Mean of the first ``n`` values (at most :data:`HEAD`); None until they are there."""
        head = self.first(name, n)
        return float(head.mean()) if head is not None else None

    def first(self, name: str, n: int) -> Floats | None:
        """The first ``n`` values (at most :data:`HEAD`), ``[n]``; None until they are there."""
        column, n = self._columns.get(name), min(n, HEAD)
        return np.array(column.head[:n]) if column and len(column.head) >= n else None

    def since(self, name: str, holds: Callable[[float], bool]) -> int:
        """The step from which on every kept value holds; the newest step if the newest value does not."""
        found, column = self.step, self._columns.get(name)
        for step, value in column.backwards() if column else ():
            if not holds(value):
                break
            found = step
        return found


@dataclass(frozen=True, slots=True)
class Above:
    """A window whose mean is above a threshold: how bad, its mean, the threshold it passed, and since when."""

    level: Level
    mean: float
    threshold: float
    since: int


def level_of(value: float, warn: float, alarm: float) -> Level | None:
    """``alarm`` above the one, ``warn`` above the other."""
    return "alarm" if value > alarm else "warn" if value > warn else None


def above(history: History, name: str, n: int, warn: float, alarm: float = math.inf) -> Above | None:
    """Whether the mean of the newest ``n`` values is above a threshold; None if not, or if there are fewer values."""
    values = history.recent(name, n)
    if values is None:
        return None
    mean = float(values.mean())
    level = level_of(mean, warn, alarm)
    if level is None:
        return None
    return Above(level, mean, alarm if level == "alarm" else warn, history.since(name, lambda v: v > warn))


def below(history: History, name: str, n: int, warn: float, alarm: float = -math.inf) -> Above | None:
    """As :func:`above`, downwards."""
    values = history.recent(name, n)
    if values is None:
        return None
    mean = float(values.mean())
    level = level_of(-mean, -warn, -alarm)
    if level is None:
        return None
    return Above(level, mean, alarm if level == "alarm" else warn, history.since(name, lambda v: v < warn))


@dataclass(frozen=True, slots=True)
class Jump:
    """A sudden change: mean of the window, mean of the steps before it, its standard error, and since when."""

    now: float
    before: float
    error: float
    since: int

    @property
    def rise(self) -> float:
        """Now less before."""
        return self.now - self.before


def jump(history: History, name: str, limits: MonitorConfig) -> Jump | None:
    """The newest ``window`` values against the ``jump_before`` ones before them; None with fewer than 8 of those.

    The standard error is that of a difference of means, σ √(1/m + 1/n), with σ over the steps before; None too where
    the change is within ``jump_sigma`` of it.
    """
    n = limits.window
    values = history.recent(name, n + limits.jump_before, least=n + 8)
    if values is None:
        return None
    before, now = values[:-n], values[-n:]
    error = float(before.std()) * math.sqrt(1 / len(now) + 1 / len(before))
    found = Jump(float(now.mean()), float(before.mean()), error, history.steps(name, n)[0])
    return found if abs(found.rise) > limits.jump_sigma * error else None


Watcher = Callable[[History, MonitorConfig], Finding | None]


@dataclass(frozen=True, slots=True)
class Monitor:
    """One registered monitor.

    Attributes:
        fn: (history, thresholds) -> Finding or None.
        reads: the metrics it looks at; it is silent where they are not logged.
        families: of methods that it says something about; empty: all.
    """

    fn: Watcher
    reads: tuple[str, ...]
    families: frozenset[str] = frozenset()
