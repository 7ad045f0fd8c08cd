"""Answers that grow alike: less entropy, fewer words, one answer for all, the same score for all."""

from __future__ import annotations

from trueup.monitors.base import Finding, History, above, level_of
from trueup.thresholds import MonitorConfig


def entropy_collapse(history: History, limits: MonitorConfig) -> Finding | None:
    """Entropy against that of the start (Cui et al. 2025, arXiv 2505.22617: gain is paid for with entropy)."""
    now, start = history.recent("entropy", limits.window), history.start("entropy", limits.start)
    if now is None or not start:
        return None
    left = float(now.mean()) / start
    level = level_of(-left, -limits.entropy_warn, -limits.entropy_alarm)
    if level is None:
        return None
    return Finding(
        level=level,
        seen=f"entropy {now.mean():.3g} nats a token, {left:.0%} of the {start:.3g} at the start (thresholds "
        f"{limits.entropy_warn:.0%}, {limits.entropy_alarm:.0%})",
        cause="the policy settles on few answers: it has nothing left to explore",
        action="set policy.entropy_coef, lower train.lr, or raise policy.kl_coef",
        since=history.since("entropy", lambda v: v < limits.entropy_warn * start),
        values={"entropy": float(now.mean()), "entropy/start": start},
    )


def mode_collapse(history: History, limits: MonitorConfig) -> Finding | None:
    """Fewer different word pairs, at equal numbers of them, than at the start (Kirk et al. 2023, arXiv 2310.06452)."""
    now, start = history.recent("answers/distinct_2", limits.window), history.start("answers/distinct_2", limits.start)
    if now is None or not start:
        return None
    fallen = 1 - float(now.mean()) / start
    if fallen <= limits.distinct_fall:
        return None
    return Finding(
        level="alarm" if fallen > 2 * limits.distinct_fall else "warn",
        seen=f"answers/distinct_2 {now.mean():.3f}, {fallen:.0%} below the {start:.3f} of the start (threshold "
        f"{limits.distinct_fall:.0%})",
        cause="answers to different prompts grow alike: mode collapse, or a phrase that the scorer likes",
        action="read samples side by side; raise policy.kl_coef or policy.entropy_coef",
        since=history.since("answers/distinct_2", lambda v: v < (1 - limits.distinct_fall) * start),
        values={"answers/distinct_2": float(now.mean()), "start": start},
    )


def shared_answer(history: History, limits: MonitorConfig) -> Finding | None:
    """One answer given to unrelated prompts, more than at the start; in most steps of the window, not by chance."""
    now = history.recent("answers/shared", limits.window)
    if now is None or (now > 0).sum() <= len(now) // 2:
        return None
    limit = limits.shared_answer + (history.start("answers/shared", 1) or 0.0)
    if now.mean() <= limit:
        return None
    return Finding(
        level="alarm",
        seen=f"one answer serves {now.mean():.0%} of the other prompts too (threshold {limit:.0%})",
        cause="a constant answer that the scorer likes, or mode collapse",
        action="stop; read that answer in samples.jsonl and mend the scorer, then roll back",
        since=history.since("answers/shared", lambda v: v > 0),
        values={"answers/shared": float(now.mean())},
    )


def same_answers(history: History, limits: MonitorConfig) -> Finding | None:
    """Answers to one prompt that are copies of each other; if nearly all are, two steps are enough."""
    told = above(history, "answers/same", 2, limits.same_alarm, limits.same_alarm)
    told = told or above(history, "answers/same", limits.window, limits.same_warn, limits.same_alarm)
    if told is None:
        return None
    return Finding(
        level=told.level,
        seen=f"{told.mean:.0%} of answers equal another one to their prompt (threshold {told.threshold:.0%})",
        cause="the sampler has collapsed: greedy or nearly so (temperature, top_p, top_k), or the policy has no "
        "entropy left",
        action="compare entropy: if it is as at the start, mend sample.temperature, top_p or top_k; else roll back",
        since=told.since,
        values={"answers/same": told.mean},
    )


def repetition(history: History, limits: MonitorConfig) -> Finding | None:
    """Answers that repeat themselves more than at the start."""
    now = history.recent("answers/repeated", limits.window)
    start = history.start("answers/repeated", 1)
    if now is None or start is None or now.mean() <= start + limits.repetition:
        return None
    return Finding(
        level="alarm" if now.mean() > start + 2 * limits.repetition else "warn",
        seen=f"{now.mean():.0%} of an answer's 4-grams stood in it before; {start:.0%} at the start (threshold "
        f"{limits.repetition:.0%} more)",
        cause="the scorer pays for repetition, or the policy degenerates into loops",
        action="read samples; add a rule against repetition to the reward, or raise policy.kl_coef",
        since=history.since("answers/repeated", lambda v: v > start + limits.repetition),
        values={"answers/repeated": float(now.mean()), "start": start},
    )


def equal_groups(history: History, limits: MonitorConfig) -> Finding | None:
    """Prompts all of whose answers score alike."""
    told = above(history, "groups/equal", limits.window, limits.equal_groups_warn, limits.equal_groups_alarm)
    if told is None:
        return None
    return Finding(
        level=told.level,
        seen=f"{told.mean:.0%} of prompts have answers that all score alike (threshold {told.threshold:.0%})",
        cause="prompts are too easy or too hard, the scorer is too coarse, or sampling is nearly greedy",
        action="other prompts, a higher sample.temperature or sample.n, or a scorer that tells answers apart",
        since=told.since,
        values={"groups/equal": told.mean},
    )
