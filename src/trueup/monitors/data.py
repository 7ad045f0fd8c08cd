"""Rows that are not what they should be: foreign to the model, of two sources, repeated, wrongly labelled."""

from __future__ import annotations

from trueup.monitors.base import Finding, History, above, jump
from trueup.thresholds import MonitorConfig

REFERENCE = "reference/chosen_per_token"
CHOSEN, REJECTED = "logps/chosen_per_token", "logps/rejected_per_token"


def foreign_data(history: History, limits: MonitorConfig) -> Finding | None:
    """What the model gives chosen answers before it has learnt from them: text that it would hardly write."""
    start = history.start(CHOSEN, limits.start)
    if start is None or -start <= limits.foreign_nll:
        return None
    return Finding(
        level="warn",
        seen=f"{CHOSEN} {start:.3g} nats at the start (threshold {-limits.foreign_nll:g})",
        cause="the chosen answers are foreign to the model: other data than it was tuned on, or a wrong chat template",
        action="check the rendered rows (trueup data show); train sft on the chosen answers first",
        since=1,
        values={CHOSEN: start},
    )


def data_shift(history: History, limits: MonitorConfig) -> Finding | None:
    """The likelihood of chosen answers under a fixed reference leaps: the reference did not move, so the rows did."""
    if not history.facts.reference_fixed:
        return None
    found = jump(history, REFERENCE, limits)
    if found is None or abs(found.rise) <= limits.foreign_shift:
        return None
    less = found.rise < 0
    return Finding(
        level="alarm",
        seen=f"{REFERENCE} {found.now:.3g} nats over the last {limits.window} steps, {found.before:.3g} before "
        f"(threshold {limits.foreign_shift:g} apart)",
        cause="the rows changed: a wrong chat template or another source from there on"
        if less else "the rows changed: another, easier source from there on",
        action="look at the rendered rows of these steps (trueup data show); go back to before them",
        since=found.since,
        values={REFERENCE: found.now, "before": found.before},
    )  # fmt: skip


def sources_apart(history: History, limits: MonitorConfig) -> Finding | None:
    """Chosen and rejected answers that the model tells apart before it has learnt anything."""
    chosen, rejected = history.start(CHOSEN, limits.start), history.start(REJECTED, limits.start)
    if chosen is None or rejected is None or abs(chosen - rejected) <= limits.source_gap:
        return None
    return Finding(
        level="warn",
        seen=f"at the start {CHOSEN} {chosen:.3g} and {REJECTED} {rejected:.3g} (threshold {limits.source_gap:g} "
        "nats apart)",
        cause="chosen and rejected come from different sources: the source will be learnt, not the preference",
        action="pair answers of one model (trueup pairs), or take rejected answers from the same source",
        since=1,
        values={CHOSEN: chosen, REJECTED: rejected},
    )


def duplicate_rows(history: History, limits: MonitorConfig) -> Finding | None:
    """Different rows of a batch with the same content."""
    told = above(history, "rows/duplicates", limits.window, limits.duplicates)
    if told is None:
        return None
    return Finding(
        level="alarm" if told.mean > 0.5 else "warn",
        seen=f"{told.mean:.0%} of a batch's rows repeat another one of it, over {limits.window} steps (threshold "
        f"{limits.duplicates:.0%})",
        cause="duplicated prompts or rows in the data: they count several times, and a batch holds less",
        action="remove duplicates from data.path (trueup data check counts them)",
        since=told.since,
        values={"rows/duplicates": told.mean},
    )


def swapped_labels(history: History, limits: MonitorConfig) -> Finding | None:
    """The margin that speaks against the labels leaps, while the learning rate does not.

    A model errs where it is unsure, so wrongly ordered pairs have small margins; swapped labels are as wrong where it
    is sure.
    """
    for name in ("rewards/contradicted", "contradicted"):
        found = jump(history, name, limits)
        if found is None or found.rise <= limits.contradicted_rise:
            continue
        return Finding(
            level="alarm",
            seen=f"{name} {found.now:.2f} over the last {limits.window} steps, {found.before:.2f} before (threshold "
            f"{limits.contradicted_rise:g} more)",
            cause="labels of the rows from there on are swapped or far noisier: the model is sure of the contrary",
            action="check chosen and rejected of these steps' rows; use loss.label_smoothing, ipo or rdpo for noise",
            since=found.since,
            values={name: found.now, "before": found.before},
        )
    return None
