"""Distance from the reference: too far, below zero, or held by nothing."""

from __future__ import annotations

import numpy as np

from trueup.monitors.base import Finding, History, above, level_of
from trueup.thresholds import MonitorConfig


def kl_negative(history: History, limits: MonitorConfig) -> Finding | None:
    """KL(π ‖ ρ) >= 0, and k1 is unbiased: a mean below 0 by more than noise is a bug.

    z = mean kl / √(Σ se²) · n over a window of n steps; the floor keeps noise around 0 from counting.
    """
    kl, se = history.recent("kl", limits.window), history.recent("kl/se", limits.window)
    if kl is None or se is None:
        return None
    mean, error = float(kl.mean()), float(np.sqrt(np.square(se).sum())) / len(se)
    if mean >= -limits.kl_negative_floor or mean >= -limits.kl_negative_se * error:
        return None
    far = f"{-mean / error:.1f} standard errors" if error else "with no spread at all, and so"
    return Finding(
        level="alarm",
        seen=f"kl {mean:.3g} nats an answer over the last {len(kl)} steps, {far} below 0 "
        f"(threshold {limits.kl_negative_se:g})",
        cause="answers are not drawn from the policy whose log-probabilities are taken: temperature, top-p, padding, "
        "or a chat template that differs between sampling and training",
        action="stop; compare sampler/kl, and sample with temperature 1 and top_p 1",
        since=history.since("kl", lambda v: v < 0),
        values={"kl": mean, "kl/se": error},
    )


def kl_high(history: History, limits: MonitorConfig) -> Finding | None:
    """KL above its target for many steps; without a target, above fixed limits."""
    target = history.facts.kl_target
    if target is not None:
        return _off_target(history, limits, target)
    far = above(history, "kl", limits.window, limits.kl_warn, limits.kl_alarm)
    if far is None:
        return None
    return Finding(
        level=far.level,
        seen=f"kl {far.mean:.3g} nats an answer over the last {limits.window} steps (threshold {far.threshold:g})",
        cause="the reward pulls harder than the KL holds: coefficient too low or learning rate too high",
        action="raise policy.kl_coef or set policy.kl_target; read samples before trusting the score",
        since=far.since,
        values={"kl": far.mean},
    )


def _off_target(history: History, limits: MonitorConfig, target: float) -> Finding | None:
    values = history.recent("kl", limits.kl_target_steps)
    limit = limits.kl_target_factor * target
    if values is None or values.min() <= limit:
        return None
    return Finding(
        level="alarm",
        seen=f"kl above {limit:g} nats an answer for {len(values)} steps, now {values[-1]:.3g} (target {target:g})",
        cause="the coefficient cannot hold the policy at this learning rate",
        action="lower train.lr, or start from a higher policy.kl_coef or a shorter policy.kl_horizon",
        since=history.since("kl", lambda v: v > limit),
        values={"kl": float(values[-1]), "kl_target": target},
    )


def kl_unleashed(history: History, limits: MonitorConfig) -> Finding | None:
    """The coefficient of the KL is 0, and the settings do not say that there shall be no KL."""
    coefficient, kl = history.now("kl_coefficient"), history.now("kl")
    if coefficient is None or coefficient > 0 or history.facts.kl_unwanted:
        return None
    far = f"kl {kl:.3g} nats an answer (alarm above {limits.kl_unleashed:g})" if kl is not None else "kl not measured"
    return Finding(
        level=(level_of(kl, -np.inf, limits.kl_unleashed) if kl is not None else None) or "warn",
        seen=f"kl_coefficient {coefficient:g}, {far}",
        cause="the KL coefficient is 0: nothing holds the policy to the reference",
        action="set policy.kl_coef above 0, or policy.kl none if that is meant",
        since=history.since("kl_coefficient", lambda v: v <= 0),
        values={"kl_coefficient": coefficient} | ({} if kl is None else {"kl": kl}),
    )
