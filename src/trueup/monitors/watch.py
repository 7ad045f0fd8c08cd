"""From findings to alarms: one for each onset.

A monitor that finds something speaks once, again if it gets worse (from ``warn`` to ``alarm``), and may speak anew
after ``clear_after`` quiet steps. What a watch knows depends on the logged metrics alone: replaying a run's lines gives
the same state, so nothing of it has to be saved.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trueup.errors import ConfigError
from trueup.monitors import MONITORS
from trueup.monitors.base import Facts, Finding, History, Level, Monitor
from trueup.thresholds import MonitorConfig
from trueup.types import Alarm


@dataclass(slots=True)
class _Spoken:
    level: Level
    quiet: int = 0


class Watch:
    """The monitors of one run.

    Args:
        facts: of the run.
        limits: the thresholds.
        family: of the method.
        monitors: by name; those that are off or belong to other families are left out.

    Raises:
        ConfigError: ``off`` names a monitor that there is not.
    """

    def __init__(
        self, facts: Facts, limits: MonitorConfig, family: str, monitors: Mapping[str, Monitor] = MONITORS
    ) -> None:
        check_off(limits, monitors)
        self.limits, self.history = limits, History(facts)
        self.monitors = {
            name: m
            for name, m in monitors.items()
            if name not in limits.off and (not m.families or family in m.families)
        }
        self._spoken: dict[str, _Spoken] = {}

    @property
    def failing(self) -> bool:
        """Something is wrong at the level of an alarm, and has not been quiet for long enough."""
        return any(s.level == "alarm" for s in self._spoken.values())

    def see(self, step: int, metrics: Mapping[str, float]) -> list[Alarm]:
        """Takes a step in; the alarms that begin with it. A monitor that reads nothing of the step is left as it is."""
        self.history.add(step, metrics)
        alarms: list[Alarm] = []
        for name, monitor in self.monitors.items():
            if monitor.reads and not any(r in metrics for r in monitor.reads):
                continue
            finding = monitor.fn(self.history, self.limits)
            if finding is None:
                self._quiet(name)
            elif self._is_new(name, finding.level):
                alarms.append(_alarm(name, step, finding))
        return alarms

    def _quiet(self, name: str) -> None:
        spoken = self._spoken.get(name)
        if spoken is None:
            return
        spoken.quiet += 1
        if spoken.quiet >= self.limits.clear_after:
            del self._spoken[name]

    def _is_new(self, name: str, level: Level) -> bool:
        spoken = self._spoken.get(name)
        if spoken is None or (spoken.level, level) == ("warn", "alarm"):
            self._spoken[name] = _Spoken(level)
            return True
        spoken.quiet = 0
        return False


def _alarm(name: str, step: int, finding: Finding) -> Alarm:
    return Alarm(
        monitor=name,
        step=step,
        level=finding.level,
        seen=finding.seen,
        since=step if finding.since is None else min(finding.since, step),
        cause=finding.cause,
        action=finding.action,
        values=finding.values,
    )


def check_off(limits: MonitorConfig, known: Iterable[str] = MONITORS) -> None:
    """Every name in ``off`` is one of a monitor.

    Raises:
        ConfigError: naming the nearest one.
    """
    names = list(known)
    for name in limits.off:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.4)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"monitors.off: {name!r} is no monitor; {hint}")
