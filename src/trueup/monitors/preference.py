"""Pairwise training that goes wrong: chosen answers grow unlikely, pairs are settled, pairs are memorised."""

from __future__ import annotations

from trueup.monitors.base import Finding, History, level_of
from trueup.thresholds import MonitorConfig

RATIO, CHOSEN = "logratio/chosen_per_token", "logps/chosen_per_token"


def displacement(history: History, limits: MonitorConfig) -> Finding | None:
    """Chosen answers lose likelihood (Razin et al. 2024, arXiv 2410.08847): against the reference, else the start."""
    name = RATIO if history.last(RATIO) is not None else CHOSEN
    now, start = history.recent(name, limits.window), 0.0 if name == RATIO else history.start(name, limits.start)
    if now is None or start is None:
        return None
    lost = start - float(now.mean())
    level = level_of(lost, limits.displaced_warn, limits.displaced_alarm)
    if level is None:
        return None
    return Finding(
        level=level,
        seen=f"chosen answers lost {lost:.3g} nats a token over the last {limits.window} steps (thresholds "
        f"{limits.displaced_warn:g}, {limits.displaced_alarm:g})",
        cause="likelihood displacement: chosen and rejected are too alike, and the probability of both goes elsewhere",
        action="lower train.lr, raise loss.beta, or add options.sft_weight; drop pairs that hardly differ",
        since=history.since(name, lambda v: start - v > limits.displaced_warn),
        values={name: float(now.mean()), "lost": lost},
    )


def settled(history: History, limits: MonitorConfig) -> Finding | None:
    """Every pair is ordered, by far: the loss is 0 and only the margins still grow (TRL issues 1236, 2371)."""
    accuracy, margin = (
        history.recent("rewards/accuracy", limits.window),
        history.recent("rewards/margin", limits.window),
    )
    if accuracy is None or margin is None:
        return None
    if accuracy.mean() < limits.settled_accuracy or margin.mean() <= limits.settled_margin:
        return None
    return Finding(
        level="warn",
        seen=f"rewards/accuracy {accuracy.mean():.3f} with rewards/margin {margin.mean():.3g} over the last "
        f"{limits.window} steps (thresholds {limits.settled_accuracy:g}, {limits.settled_margin:g})",
        cause="overfitting: the pairs are settled, and what still moves is their margin",
        action="stop here, train fewer epochs, or use ipo, which aims at a finite margin",
        since=history.since("rewards/margin", lambda v: v > limits.settled_margin),
        values={"rewards/accuracy": float(accuracy.mean()), "rewards/margin": float(margin.mean())},
    )


def accuracy_gap(history: History, limits: MonitorConfig) -> Finding | None:
    """Accuracy in training surely above that on held-out rows."""
    for name in ("rewards/accuracy", "accuracy"):
        train, held_out = history.recent(name, 2 * limits.window), history.last(f"eval/{name}")
        high = history.last(f"eval/{name}/high")
        if train is None or held_out is None or high is None:
            continue
        mean = float(train.mean())
        if mean - held_out <= limits.accuracy_gap or mean <= high:
            continue
        return Finding(
            level="warn",
            seen=f"{name} {mean:.3f} in training, {held_out:.3f} on held-out rows (95 % up to {high:.3f}; threshold "
            f"{limits.accuracy_gap:g} apart)",
            cause="overfitting: the pairs are memorised",
            action="take an earlier checkpoint (eval.every, eval.patience), fewer epochs, or more pairs",
            values={name: mean, f"eval/{name}": held_out},
        )
    return None
