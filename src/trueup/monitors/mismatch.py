"""Sampler and trainer that compute different models."""

from __future__ import annotations

import math

import numpy as np

from trueup.monitors.base import Above, Finding, History, above
from trueup.thresholds import MonitorConfig

OLD = 30  # steps: a gap that more of them would explain is taken for another computation


def sampler_mismatch(history: History, limits: MonitorConfig) -> Finding | None:
    """Log-probabilities of the sampled tokens, as the sampler had them and as the trainer computes them.

    By KL (k3), by the multiplicative error mean e^|difference|, and in fp32 by the largest difference of one token.
    """
    n = limits.window
    candidates = [
        (
            "sampler/kl",
            "nats a token",
            above(history, "sampler/kl", n, limits.sampler_kl_warn, limits.sampler_kl_alarm),
        ),
        ("sampler/error", "times", above(history, "sampler/error", n, limits.sampler_error)),
    ]
    if not history.facts.low_precision:
        candidates.append(("sampler/largest", "nats", above(history, "sampler/largest", n, limits.sampler_largest)))
    told = [(name, unit, found) for name, unit, found in candidates if found is not None]
    if not told:
        return None
    name, unit, worst = min(told, key=lambda t: _rank(t[2]))
    return Finding(
        level=worst.level,
        seen=f"{name} {worst.mean:.3g} {unit} over the last {n} steps (threshold {worst.threshold:g})",
        **_cause(history),
        since=worst.since,
        values={found_name: found.mean for found_name, _, found in told},
    )


def _cause(history: History) -> dict[str, str]:
    """Old weights, or another computation: KL grows with the square of the steps between the two policies."""
    far, steps = history.recent("sampler/kl", 5, least=1), history.recent("kl/step", 128, least=1)
    stride = float(np.median(steps)) if steps is not None else 0.0
    if far is not None and stride > 0 and far.mean() <= stride * OLD**2:
        age = max(1, round(math.sqrt(float(far.mean()) / stride)))
        return {
            "cause": f"stale rollouts: answers come from older weights, by about {age} step{'s' if age > 1 else ''} of "
            f"the size of kl/step {stride:.2g}",
            "action": "hand the weights over before every step; do not train on old answers",
        }
    return {
        "cause": "answers come from another computation than the trainer's: stale rollouts, an adapter that was not "
        "handed over, another precision or another chat template",
        "action": "compare weights, precision and rendered prompts on both sides; do not train on these answers",
    }


def _rank(found: Above) -> float:
    """Alarms first, and among equals the one furthest above its threshold."""
    return (0.0 if found.level == "alarm" else math.inf) or -found.mean / found.threshold
