"""Loss, gradient and learning rate: numbers that are none, and numbers that leap."""

from __future__ import annotations

import numpy as np

from trueup.monitors.base import Finding, History
from trueup.thresholds import MonitorConfig

_UNKNOWN = ("/low", "/high", "value/explained_variance")  # nan where it cannot be known: that is no fault
_SCORES = ("score", "reward")
_NO_STEP = {"loss", "grad_norm"}  # with one of these not finite, the optimizer does not step


def non_finite(history: History, limits: MonitorConfig) -> Finding | None:
    """A metric that is nan or infinite; whether the score is among them tells the scorer's fault from the model's."""
    del limits
    broken = sorted((n for n in history.broken if not n.endswith(_UNKNOWN)), key=lambda n: (not _scored(n), n))
    if not broken:
        return None
    scored = _scored(broken[0])
    shown = ", ".join(f"{n} {history.broken[n]}" for n in broken[:5])
    more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
    return Finding(
        level="alarm",
        seen=f"not finite: {shown}{more}" + ("; the step changed no weight" if _NO_STEP & set(broken) else ""),
        cause="the scorer gave a number that is none: NaN or infinite scores" if scored
        else "the loss or its gradient overflowed: learning rate too high, or a row with extreme log-probabilities",
        action="mend the scorer; look at the rows of this step" if scored
        else "lower train.lr, use fp32, and look at the rows that the step's line names",
        since=history.step,
    )  # fmt: skip


def _scored(name: str) -> bool:
    return name.removeprefix("eval/").split("/")[0] in _SCORES


def loss_spike(history: History, limits: MonitorConfig) -> Finding | None:
    """Loss or gradient norm above mean + 6 σ of the steps before (OLMo-core), and above thrice the largest of them."""
    for name in ("loss", "grad_norm"):
        now, values = history.now(name), history.recent(name, limits.spike_window + 1, least=limits.spike_least + 1)
        if now is None or values is None:
            continue
        before = values[:-1]
        line = float(before.mean() + limits.spike_sigma * before.std())
        if now > max(line, limits.spike_factor * float(np.abs(before).max())):
            return Finding(
                level="warn",
                seen=f"{name} {now:.3g}; mean of {len(before)} steps {before.mean():.3g}, {limits.spike_sigma:g} "
                f"standard deviations above it {line:.3g}, largest {before.max():.3g}",
                cause="a row unlike the others, or a learning rate at the border of divergence",
                action="look at this step's rows; if spikes come back, lower train.lr or train.max_grad_norm",
                values={name: now, "mean": float(before.mean()), "line": line},
            )
    return None


def loss_rise(history: History, limits: MonitorConfig) -> Finding | None:
    """Loss above twice its mean over the steps before, several times in a row (llm-foundry's rule)."""
    n = limits.rise_steps
    values = history.recent("loss", limits.spike_window + n, least=limits.spike_least + n)
    if values is None:
        return None
    before, now = float(values[:-n].mean()), values[-n:]
    if before <= 0 or now.min() <= limits.rise_factor * before:
        return None
    return Finding(
        level="alarm",
        seen=f"loss at least {now.min():.3g} for {n} steps; its mean before was {before:.3g} (threshold "
        f"{limits.rise_factor:g} times)",
        cause="the run diverges: learning rate too high, or other data than before",
        action="go back to a checkpoint before this and lower train.lr",
        since=history.steps("loss", n)[0],
        values={"loss": float(now.mean()), "before": before},
    )


def lr_jump(history: History, limits: MonitorConfig) -> Finding | None:
    """Learning rate several times that of the step before, outside a warm-up, which climbs by its first step's rate."""
    values = history.recent("lr", 3)
    if values is None or values[1] <= 0 or values[2] <= limits.lr_jump * values[1]:
        return None
    return Finding(
        level="alarm",
        seen=f"lr {values[2]:.3g}, {values[2] / values[1]:.3g} times the {values[1]:.3g} of the step before "
        f"(threshold {limits.lr_jump:g})",
        cause="the learning rate was raised in mid-run: a mistaken schedule or override",
        action="go back to the checkpoint before this step, and put train.lr right",
        since=history.step,
        values={"lr": float(values[2]), "before": float(values[1])},
    )
