"""From findings to alarms: one for each onset, cleared by quiet steps, the same after a replay."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

import pytest

from trueup.errors import ConfigError
from trueup.monitors import MONITORS
from trueup.monitors.base import Facts, Finding, History, Monitor
from trueup.monitors.watch import Watch
from trueup.thresholds import MonitorConfig
from trueup.types import Alarm


def high(history: History, limits: MonitorConfig) -> Finding | None:
    """A warning above 1, an alarm above 2."""
    x = history.now("x")
    if x is None or x <= 1:
        return None
    return Finding(level="alarm" if x > 2 else "warn", seen=f"x {x}", cause="too much", action="less of it")


ONE = {"high": Monitor(high, ("x",))}


def watch(clear_after: int = 3, monitors: Mapping[str, Monitor] = ONE, family: str = "sft", **limits: object) -> Watch:
    config = MonitorConfig.model_validate({"clear_after": clear_after, **limits})
    return Watch(Facts(), config, family, monitors)


def spoken(watch: Watch, values: list[float]) -> list[tuple[int, str]]:
    alarms: list[Alarm] = []
    for step, value in enumerate(values, start=1):
        alarms += watch.see(step, {"x": value})
    return [(a.step, a.level) for a in alarms]


def test_one_alarm_for_each_onset() -> None:
    assert spoken(watch(), [0, 1.5, 1.5, 1.5, 0, 1.5]) == [(2, "warn")]


def test_quiet_steps_clear_and_the_next_onset_speaks_again() -> None:
    assert spoken(watch(3), [1.5, 0, 0, 1.5]) == [(1, "warn")]
    assert spoken(watch(3), [1.5, 0, 0, 0, 1.5]) == [(1, "warn"), (5, "warn")]


def test_what_gets_worse_speaks_once_more_and_what_gets_better_does_not() -> None:
    assert spoken(watch(), [1.5, 3.0, 1.5, 3.0]) == [(1, "warn"), (2, "alarm")]


def test_steps_that_log_nothing_of_it_are_neither_quiet_nor_loud() -> None:
    watcher = watch(2)
    assert len(watcher.see(1, {"x": 3.0})) == 1
    for step in range(2, 9):
        assert watcher.see(step, {"y": 1.0}) == []
    assert watcher.failing
    assert watcher.see(9, {"x": 3.0}) == []
    watcher.see(10, {"x": 0.0})
    assert watcher.failing
    watcher.see(11, {"x": 0.0})
    assert not watcher.failing


def test_a_warning_is_no_failure() -> None:
    watcher = watch()
    watcher.see(1, {"x": 1.5})
    assert not watcher.failing


def test_an_alarm_carries_what_the_finding_said() -> None:
    [alarm] = watch().see(4, {"x": 2.5})
    assert (alarm.monitor, alarm.step, alarm.since, alarm.level) == ("high", 4, 4, "alarm")
    assert (alarm.seen, alarm.cause, alarm.action) == ("x 2.5", "too much", "less of it")


def test_monitors_that_are_off_or_of_another_family_do_not_run() -> None:
    assert spoken(watch(off=("high",)), [3.0]) == []
    other = {"high": Monitor(high, ("x",), frozenset({"policy"}))}
    assert spoken(watch(monitors=other), [3.0]) == []
    assert spoken(watch(monitors=other, family="policy"), [3.0]) == [(1, "alarm")]


@pytest.mark.parametrize(("name", "hint"), [("kl_hihg", "did you mean kl_high"), ("zzz", "there are non_finite, ")])
def test_a_monitor_that_there_is_not_is_refused(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"monitors.off: '{name}' is no monitor; {hint}"):
        watch(monitors=MONITORS, off=(name,))


def run_of(seed: int, steps: int = 200) -> list[dict[str, float]]:
    """A policy-gradient run whose figures wander, so that monitors come and go."""
    rng = random.Random(seed)
    names = sorted({name for m in MONITORS.values() for name in m.reads})
    level = dict.fromkeys(names, 0.2)
    lines: list[dict[str, float]] = []
    for _ in range(steps):
        for name in names:
            level[name] += rng.gauss(0, 0.1)
        lines.append({n: v for n, v in level.items() if rng.random() < 0.9})
    return lines


def test_a_replay_comes_to_the_same_state() -> None:
    lines = run_of(1)
    whole, first, second = (watch(monitors=MONITORS, family="policy") for _ in range(3))
    told = [a for step, line in enumerate(lines, start=1) for a in whole.see(step, line)]
    for step, line in enumerate(lines[:120], start=1):
        first.see(step, line)
    for step, line in enumerate(lines[:120], start=1):
        second.see(step, line)
    rest = [a for step, line in enumerate(lines[120:], start=121) for a in second.see(step, line)]
    assert rest == [a for a in told if a.step > 120]
    assert len({a.monitor for a in told}) > 8


def test_a_step_is_watched_in_well_under_the_time_of_any_training_step() -> None:
    """The limit is generous for slow machines; what was measured stands in docs/monitors.md."""
    lines = run_of(2, 300)
    watcher = watch(monitors=MONITORS, family="policy")
    begun = time.perf_counter()
    for step, line in enumerate(lines, start=1):
        watcher.see(step, line)
    assert (time.perf_counter() - begun) / len(lines) < 5e-3
