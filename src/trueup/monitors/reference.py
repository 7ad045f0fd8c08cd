"""A reference that follows the policy: every distance from it is 0, and nothing is held."""

from __future__ import annotations

from trueup.monitors.base import Finding, History
from trueup.thresholds import MonitorConfig

_REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/desirable", "rewards/undesirable")
NOTHING = 1e-10  # nats: what k3 makes of rounding errors alone


def reference_moves(history: History, limits: MonitorConfig) -> Finding | None:
    """The policy learns and yet is no further from the reference than before the first step.

    Policy gradients: k3 to the reference stays below a share of the largest single step, kl/step tokens · nats a token.
    Pairs and labels: β (log π − log ρ) is 0 on both sides.
    """
    if not history.facts.reference_fixed or not _learns(history, limits):
        return None
    seen = _distance(history, limits) or _rewards(history, limits)
    if seen is None:
        return None
    text, values = seen
    return Finding(
        level="alarm",
        seen=text,
        cause="the reference is the policy itself: it moves with it (the same weights, or an adapter that is not "
        "switched off)",
        action="stop; load the reference from its own source (model.reference copy)",
        since=max(1, history.step - limits.window + 1),
        values=values,
    )


def _learns(history: History, limits: MonitorConfig) -> bool:
    """The window's steps and the one before them changed weights."""
    rates = history.recent("lr", limits.window + 1)
    norms = history.recent("grad_norm", limits.window + 1)
    return rates is not None and norms is not None and bool(rates.min() > 0 and norms.min() > 0)


def _distance(history: History, limits: MonitorConfig) -> tuple[str, dict[str, float]] | None:
    far, length = history.recent("kl/k3", limits.window), history.last("length")
    if far is None:
        return None
    steps = history.recent("kl/step", limits.window + 1, least=1)
    stride = (float(steps.max()) if steps is not None else 0.0) * (length or 1.0)
    limit = max(NOTHING, limits.reference_share * stride)
    if far.max() >= limit:
        return None
    return (
        f"kl/k3 at most {far.max():.3g} nats an answer for {len(far)} steps in which the policy moved (threshold "
        f"{limit:.3g}, {limits.reference_share:g} of the largest step)",
        {"kl/k3": float(far.max()), "kl/step": stride},
    )


def _rewards(history: History, limits: MonitorConfig) -> tuple[str, dict[str, float]] | None:
    logged = [v for name in _REWARDS if (v := history.recent(name, limits.window)) is not None]
    if not logged or not history.facts.reference:
        return None
    largest = max(float(abs(v).max()) for v in logged)
    if largest >= limits.reference_zero:
        return None
    return (
        f"rewards at most {largest:.3g} off 0 for {limits.window} steps with a gradient (threshold "
        f"{limits.reference_zero:g})",
        {"rewards": largest},
    )
