"""A value model that does not predict."""

from __future__ import annotations

import math

import numpy as np

from trueup.monitors.base import Finding, History, level_of
from trueup.thresholds import MonitorConfig

NAME = "value/explained_variance"


def value_failure(history: History, limits: MonitorConfig) -> Finding | None:
    """Explained variance low after the warm-up, by more than two standard errors of its window."""
    facts = history.facts
    warmup = max(limits.value_steps, math.ceil(limits.value_warmup * (facts.total or 0))) + facts.value_warmup
    values = history.recent(NAME, 2 * limits.window)
    if values is None or history.step <= warmup:
        return None
    mean = float(values.mean())
    high = mean + 2 * float(values.std()) / math.sqrt(len(values))
    level = level_of(-high, -limits.value_warn, -limits.value_alarm)
    if level is None:
        return None
    worse = "worse than a constant" if mean < 0 else "no better than that threshold"
    limit = limits.value_alarm if level == "alarm" else limits.value_warn
    return Finding(
        level=level,
        seen=f"explained variance {mean:.2f} over the last {len(values)} steps (threshold {limit:g}): {worse}",
        cause="the value model lags behind the policy, so advantages are mostly noise",
        action="raise policy.value_lr, set policy.value_warmup, or use rloo, which needs no value model",
        since=history.since(NAME, lambda v: v < limit),
        values={NAME: mean, "spread": float(np.std(values))},
    )
