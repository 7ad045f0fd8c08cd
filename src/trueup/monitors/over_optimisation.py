"""The score rises and what it stands for falls: the scorer is being exploited."""

from __future__ import annotations

import numpy as np

from trueup.monitors.base import KEPT, Finding, Floats, History
from trueup.ops.watching import reward_peak
from trueup.thresholds import MonitorConfig

PROXY, GOLD = "eval/score", "eval/gold"


def over_optimisation(history: History, limits: MonitorConfig) -> Finding | None:
    """A held-out second scorer is surely below its best while the trained-on one rose over the last evaluations.

    Alarm where the upper end of gold's 95 % interval lies below the best mean so far. The law of Gao et al. 2022
    (arXiv 2210.10760), R(d) = d (α − β log d) with d = √KL, is fitted for the distance of the predicted peak.
    """
    proxy, gold = history.recent(PROXY, limits.gold_evaluations + 1), history.recent(GOLD, KEPT, least=3)
    high = history.last(f"{GOLD}/high")
    if proxy is None or gold is None or high is None:
        return None
    best = float(gold.max())
    if high >= best or not bool((np.diff(proxy) > 0).all()):
        return None
    at = history.steps(GOLD, KEPT)[int(gold.argmax())]
    peak = _peak(history, gold)
    return Finding(
        level="alarm",
        seen=f"second scorer {gold[-1]:.3g} (95 % below {high:.3g}), its best was {best:.3g} at step {at}, while the "
        f"score rose to {proxy[-1]:.3g} over {limits.gold_evaluations} evaluations"
        + (f"; predicted peak at sqrt(KL) {peak:.2g}" if peak else ""),
        cause="reward over-optimisation: the score no longer measures what the second scorer does",
        action=f"take the checkpoint nearest to step {at}; raise policy.kl_coef, or score with an ensemble",
        since=at,
        values={"gold": float(gold[-1]), "gold/best": best, "score": float(proxy[-1])}
        | ({"peak": peak} if peak else {}),
    )


def _peak(history: History, gold: Floats) -> float | None:
    """√KL at which gold is predicted to peak; None if it cannot be told."""
    kl = [history.at("kl", step) for step in history.steps(GOLD, KEPT)]
    distance = np.array([np.sqrt(max(k, 0.0)) if k is not None else np.nan for k in kl])
    found = reward_peak(distance, gold - (history.start(GOLD, 1) or 0.0))
    return found.distance if found else None
