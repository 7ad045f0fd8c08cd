"""Scorers, or principles, that do not agree."""

from __future__ import annotations

from trueup.monitors.base import Finding, History, above, level_of
from trueup.thresholds import MonitorConfig

SPREAD = "score/disagreement"


def disagreement(history: History, limits: MonitorConfig) -> Finding | None:
    """Members of an ensemble part over the policy's answers, against those of the start (Coste et al. 2023)."""
    now, start = history.recent(SPREAD, limits.window), history.start(SPREAD, limits.start)
    if now is None or not start:
        return None
    times = float(now.mean()) / start
    level = level_of(times, limits.disagreement_warn, limits.disagreement_alarm)
    if level is None:
        return None
    return Finding(
        level=level,
        seen=f"{SPREAD} {now.mean():.3g}, {times:.2f} times the {start:.3g} of the start (thresholds "
        f"{limits.disagreement_warn:g}, {limits.disagreement_alarm:g})",
        cause="the policy has left the answers that the reward models know: their scores mean less and less",
        action="score with how: min or mean_minus_variance, raise policy.kl_coef, or train the reward models anew",
        since=history.since(SPREAD, lambda v: v > limits.disagreement_warn * start),
        values={SPREAD: float(now.mean()), "start": start},
    )


def principle_conflict(history: History, limits: MonitorConfig) -> Finding | None:
    """Two principles of one level prefer different answers, both clearly (``ops.watching.conflict_share``)."""
    told = above(history, "principles/conflict", 1, limits.conflict)
    if told is None:
        return None
    return Finding(
        level="warn",
        seen=f"two principles of a level disagree on {told.mean:.0%} of pairs (threshold {limits.conflict:.0%})",
        cause="principles that contradict each other: the labels depend on which one was drawn",
        action="put one above the other, or reword them",
        since=told.since,
        values={"principles/conflict": told.mean},
    )
