"""Whether one step of a policy gradient stays near the policy that sampled."""

from __future__ import annotations

import numpy as np

from trueup.monitors.base import Finding, History, above, level_of
from trueup.thresholds import MonitorConfig

LR = "the learning rate is too high for this batch, or there are too many epochs over it"


def step_size(history: History, limits: MonitorConfig) -> Finding | None:
    """KL(π_old ‖ π) of the last pass, by k3."""
    told = above(history, "kl/step", limits.window, limits.step_kl_warn, limits.step_kl_alarm)
    if told is None:
        return None
    return Finding(
        level=told.level,
        seen=f"kl/step {told.mean:.3g} nats a token over the last {limits.window} steps (threshold {told.threshold:g})",
        cause=LR,
        action="lower train.lr or policy.epochs, or set policy.step_kl",
        since=told.since,
        values={"kl/step": told.mean},
    )


def clip_fraction(history: History, limits: MonitorConfig) -> Finding | None:
    """Share of valid tokens on which the clip acts, either way."""
    low, high = history.recent("clip/low", limits.window), history.recent("clip/high", limits.window)
    if low is None or high is None:
        return None
    share = float((low + high).mean())
    level = level_of(share, limits.clip_warn, limits.clip_alarm)
    if level is None:
        return None
    return Finding(
        level=level,
        seen=f"the clip acts on {share:.0%} of tokens over the last {limits.window} steps (thresholds "
        f"{limits.clip_warn:.0%}, {limits.clip_alarm:.0%})",
        cause=LR,
        action="lower train.lr or policy.epochs: clipped tokens have no gradient",
        values={"clip": share},
    )


def ratio_first(history: History, limits: MonitorConfig) -> Finding | None:
    """π / π_old before the first update is 1: anything else is a bug."""
    ratio = history.now("ratio/first")
    allowed = limits.ratio_first_low if history.facts.low_precision else limits.ratio_first
    if ratio is None or abs(ratio - 1) <= allowed:
        return None
    return Finding(
        level="alarm",
        seen=f"ratio/first {ratio:.6g}, not 1 (allowed: {allowed:g} off)",
        cause="old and new log-probabilities of the same weights differ: dropout, padding, or stale rollouts",
        action="stop: learning from such ratios is wrong",
        since=history.since("ratio/first", lambda v: abs(v - 1) > allowed),
        values={"ratio/first": ratio},
    )


def ratio_large(history: History, limits: MonitorConfig) -> Finding | None:
    """Single tokens that rule the gradient, or a mean ratio far from 1."""
    mean, largest = history.recent("ratio", limits.window), history.recent("ratio/largest", limits.window)
    if mean is None or largest is None:
        return None
    far = float(np.exp(np.abs(np.log(np.maximum(mean, 1e-30))).mean()))
    usual = float(np.median(largest))
    if usual <= limits.ratio_largest and far <= limits.ratio_mean:
        return None
    return Finding(
        level="alarm",
        seen=f"largest ratio {usual:.3g} in the median of {limits.window} steps (threshold {limits.ratio_largest:g}), "
        f"mean ratio off 1 by a factor {far:.3g} (threshold {limits.ratio_mean:g})",
        cause=LR,
        action="lower train.lr or policy.epochs; a tighter loss.clip_high if single tokens rule",
        since=history.since("ratio/largest", lambda v: v > limits.ratio_largest),
        values={"ratio/largest": usual, "ratio": float(mean.mean())},
    )
