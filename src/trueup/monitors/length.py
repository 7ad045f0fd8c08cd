"""Length: rewarded for itself, drifting, cut off."""

from __future__ import annotations

from trueup.monitors.base import Finding, History, above
from trueup.thresholds import MonitorConfig


def length_hacking(history: History, limits: MonitorConfig) -> Finding | None:
    """Longer answers to the same prompt score higher: by correlation, or by how often the longer one wins a pair."""
    told = above(history, "score/length_correlation", limits.window, limits.correlation_warn, limits.correlation_alarm)
    name = "score/length_correlation"
    if told is None:
        told, name = above(history, "longer_won", limits.window, limits.longer_won), "longer_won"
    if told is None:
        return None
    return Finding(
        level=told.level,
        seen=f"{name} {told.mean:.2f} over the last {limits.window} steps (threshold {told.threshold:g})",
        cause="the scorer likes length: among answers to one prompt the longer ones score higher",
        action="read long answers; score with a length penalty, or online.choose length-matched",
        since=told.since,
        values={name: told.mean},
    )


def length_only(history: History, limits: MonitorConfig) -> Finding | None:
    """A reward model that is no better than picking the longer answer."""
    del limits
    low, baseline = history.last("eval/accuracy/low"), history.last("eval/longer_accuracy")
    evaluations = history.recent("eval/accuracy", 2)
    if low is None or baseline is None or evaluations is None:
        return None
    best = max(baseline, 1 - baseline)  # picking the shorter one is as simple
    if low > best or evaluations[-1] <= 0.5:
        return None
    return Finding(
        level="warn",
        seen=f"eval/accuracy {evaluations[-1]:.3f} (95 % from {low:.3f}); length alone decides {best:.3f}",
        cause="the reward model does not surely know more than which answer is longer",
        action="more or better pairs, or pairs of equal length; do not train a policy on it yet",
        values={"eval/accuracy": float(evaluations[-1]), "eval/longer_accuracy": baseline},
    )


def length_drift(history: History, limits: MonitorConfig) -> Finding | None:
    """Mean length far from what it was at the start."""
    now, start = history.recent("length", limits.window), history.start("length", limits.start)
    if now is None or not start:
        return None
    times = float(now.mean()) / start
    grown = times > limits.length_growth
    if not grown and times >= limits.length_fall:
        return None
    limit = limits.length_growth if grown else limits.length_fall
    return Finding(
        level="warn",
        seen=f"length {now.mean():.1f} tokens, {times:.2f} times the {start:.1f} of the start (threshold {limit:g})",
        cause="the scorer pays for length" if grown else "answers collapse to a few tokens that score well",
        action="compare score/length_correlation and read samples; the score may not be what is wanted",
        since=history.since("length", lambda v: v > limit * start if grown else v < limit * start),
        values={"length": float(now.mean()), "length/start": start},
    )


def truncation(history: History, limits: MonitorConfig) -> Finding | None:
    """Answers that reach the limit without an end."""
    cut = above(history, "truncated", limits.window, limits.truncated_warn, limits.truncated_alarm)
    if cut is None:
        return None
    return Finding(
        level=cut.level,
        seen=f"{cut.mean:.0%} of answers cut off at the length limit, over {limits.window} steps (threshold "
        f"{cut.threshold:.0%})",
        cause="sample.max_new_tokens is too small for these answers, or the model does not end them",
        action="raise sample.max_new_tokens, set policy.missing_eos_penalty, or train on rows that end first",
        since=cut.since,
        values={"truncated": cut.mean},
    )
