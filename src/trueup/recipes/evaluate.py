"""What `trueup eval` finds, and the folder it is kept in.

``OUT/eval.json`` is one JSON object; unknown numbers (nan) are null. Its fields, by which reports read it:

* ``schema``: 1. ``kind``: ``answers``, ``reward``, ``choice``, ``perplexity`` or ``agreement``.
* ``headline``: the result in a sentence. ``created``: UTC. ``settings``: what was asked for. ``environment``: versions.
* ``subjects``: who was evaluated, a list of ``{name, source, identity, rows, figures, tables, left_out, warnings}``.
  A figure is ``{name, mean, low, high, n, clusters, smallest_difference, note}`` (:class:`trueup.evals.figure.Figure`).
  ``tables``: what is no single number, by name: ``length_words`` (quantiles 5, 25, 50, 75, 95 %), ``scores``
  (quantiles), ``reliability`` (rows ``{low, high, n, confidence, accuracy, accuracy_low, accuracy_high}``).
  ``left_out``: figures that could not be computed, each with its reason.
* ``contrasts``: two subjects on the same prompts, ``{measure, first, second, figure, even, better, worse, p_value,
  p_holm, verdict}``. The figure is ``first`` minus ``second`` (``even`` 0), or how often ``first`` beats ``second``
  (``even`` 0.5). ``p_value``: exact sign test over prompts; ``p_holm``: the same after Holm over all contrasts of the
  measure, of which ``verdict`` (in words) makes use; both null where no test belongs to the figure.
* ``ratings``: Bradley-Terry ratings on Elo's scale, figures named after the subjects; empty with fewer than three.
* ``judges``: ``{identity, pairs, scored, ties, unscored, how, flip_rate, first_slot, always, suspect,
  disagreement, warnings}`` (:class:`trueup.feedback.judgement.Summary`).
* ``warnings``: of the evaluation as a whole.
* ``files``: name -> file in the folder: ``answers`` (a line ``{model, id, prompt, index, answer, truncated, tokens,
  scores}``), ``judgements`` (a line ``{first, second, id, index, p, orders, flipped, tie, unscored, identical}``).

``OUT/journal/`` holds every call that was made (answers, scores, judge), each line chained to the one before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from trueup.data.write import write_rows
from trueup.errors import RunError
from trueup.evals.figure import Figure
from trueup.feedback.judgement import Summary
from trueup.ops.planning import holm, smallest_difference
from trueup.ops.stats import Z95, Interval, paired_test
from trueup.runs.disk import guard, write_atomic
from trueup.runs.environment import environment

SCHEMA = 1
RESULT = "eval.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who was evaluated.

    Attributes:
        name: short, unique.
        source: what the user gave: a path, a file.
        identity: down to the hash.
        rows: answers, pairs, questions or documents.
        figures: what was found.
        tables: what is no single number.
        left_out: figures that could not be computed, with reasons.
        warnings: what a reader must know before believing a figure.
    """

    name: str
    source: str
    identity: str
    rows: int
    figures: tuple[Figure, ...]
    tables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        told: dict[str, Any] = {n: getattr(self, n) for n in ("name", "source", "identity", "rows")}
        return {
            **told,
            "figures": [f.to_json() for f in self.figures],
            "tables": plain_numbers(self.tables),
            "left_out": list(self.left_out),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two subjects on the same prompts.

    Attributes:
        measure: what is compared.
        first, second: names.
        figure: ``first`` minus ``second``, or the rate at which ``first`` wins.
        even: what the figure is if they are equal: 0, or 0.5 for a rate.
        better, worse: prompts on which ``first`` is better, and worse.
        p_value: of the exact sign test over prompts; None: no test belongs to this figure.
        p_holm: after Holm's correction.
    """

    measure: str
    first: str
    second: str
    figure: Figure
    even: float = 0.0
    better: int = 0
    worse: int = 0
    p_value: float | None = None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """In words; a difference counts if the interval and the corrected test both show it."""
        figure = self.figure
        if "_shown_" in self.measure:
            return "one order alone; read both together"
        if self.p_value is not None and self.better == self.worse == 0:
            return "equal on every prompt"
        if math.isnan(figure.low):
            return "unknown: no interval is possible"
        if figure.low <= self.even <= figure.high:
            return f"no difference shown; this sample could have shown {figure.smallest_difference:.2g}"
        way = "higher" if figure.mean > self.even else "lower"
        if self.p_holm is not None and self.p_holm > 0.05:
            return f"perhaps {way}: the interval says so, the sign test does not (p = {self.p_holm:.2g})"
        return f"{self.first} {way}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        whole = {n: getattr(self, n) for n in ("measure", "first", "second", "even", "better", "worse")}
        return {
            **whole, "figure": self.figure.to_json(), "p_value": self.p_value, "p_holm": self.p_holm,
            "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that was found; the fields are those of eval.json."""

    kind: str
    headline: str
    settings: Mapping[str, Any]
    subjects: tuple[Subject, ...]
    contrasts: tuple[Contrast, ...] = ()
    ratings: tuple[Figure, ...] = ()
    judges: Mapping[str, Summary] = field(default_factory=dict[str, Summary])
    warnings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])

    def with_headline(self) -> Evaluation:
        """With the result of comparing answers in one sentence: the first win rate, else the first reward."""
        rates = [c for c in self.contrasts if c.measure == "win_rate"]
        chosen = rates or [c for c in self.contrasts if c.measure == "reward"] or list(self.contrasts)[:1]
        if chosen:
            best = chosen[0]
            what = "wins against" if best.even else f"minus ({best.measure})"
            return replace(self, headline=f"{best.first} {what} {best.second}: {best.figure}; {best.verdict}")
        first = self.subjects[0]
        return replace(self, headline=f"{first.name}: {first.figures[0].name} {first.figures[0]}")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "headline": self.headline,
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "settings": plain_numbers(self.settings),
            "subjects": [s.to_json() for s in self.subjects],
            "contrasts": [c.to_json() for c in self.contrasts],
            "ratings": [f.to_json() for f in self.ratings],
            "judges": [{"identity": who, **plain_numbers(s.to_json())} for who, s in self.judges.items()],
            "warnings": list(self.warnings),
            "files": dict(self.files),
            "environment": environment(),
        }


def plain_numbers(value: Any) -> Any:
    """JSON's own values: tuples as lists, what is not finite as None."""
    if isinstance(value, Interval):
        return {"mean": value.mean, "low": plain_numbers(value.low), "high": plain_numbers(value.high)}
    if isinstance(value, Mapping):
        return {str(k): plain_numbers(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ── the folder ──


def begun(out: Path) -> Path:
    """Makes the folder of an evaluation, or goes on with one that was interrupted; returns its journal folder.

    Raises:
        RunError: it holds a finished evaluation, or something else.
        ResourceError: the system refuses.
    """
    if (out / RESULT).exists():
        raise RunError(f"{out}: holds a finished evaluation; name another folder")
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; name a folder")
    journal = out / "journal"
    if out.exists() and any(out.iterdir()) and not journal.is_dir():
        raise RunError(f"{out}: is not empty and holds no evaluation that was begun; name another folder")
    with guard(journal, "making the folder"):
        journal.mkdir(parents=True, exist_ok=True)
    return journal


def finished(out: Path, evaluation: Evaluation, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Evaluation:
    """Writes the row files and, last of all, eval.json; returns the evaluation with its files.

    Args:
        out: the folder.
        evaluation: to write.
        rows: name -> lines of ``<name>.jsonl``; empty ones are not written.
    """
    files: dict[str, str] = {}
    for name, lines in rows.items():
        if lines:
            write_rows(out / f"{name}.jsonl", [plain_numbers(line) for line in lines], overwrite=True)
            files[name] = f"{name}.jsonl"
    whole = replace(evaluation, files=files)
    write_atomic(out / RESULT, json.dumps(whole.to_json(), ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    return whole


# ── comparing ──


def contrast(
    measure: str,
    first: tuple[str, np.ndarray],
    second: tuple[str, np.ndarray],
    prompts: Sequence[str],
    seed: int = 0,
) -> Contrast:
    """``first`` minus ``second``, row by row, over the prompts they share.

    Args:
        measure: its name.
        first: name and values ``[n]``.
        second: of the other, in the same order.
        prompts: the cluster of each row.
        seed: of the resampling.
    """
    test = paired_test(first[1], second[1], clusters=prompts, seed=seed)
    difference, note = test.difference, "difference, paired"
    if len(set((first[1] - second[1]).tolist())) == 1:  # nothing to resample: no interval rather than one of no width
        difference, note = Interval(difference.mean, math.nan, math.nan), "the same difference on every prompt"
    return Contrast(
        measure=measure, first=first[0], second=second[0],
        figure=interval_figure(measure, difference, len(first[1]), len(set(prompts)), note),
        better=test.better, worse=test.worse, p_value=test.p_value,
    )  # fmt: skip


def interval_figure(name: str, interval: Interval, n: int, clusters: int, note: str = "") -> Figure:
    """A figure from an interval; the smallest difference follows from its width."""
    error = (interval.high - interval.low) / (2 * Z95)
    return Figure(name, *interval, n, clusters, smallest_difference(error), note)


def holm_corrected(contrasts: Sequence[Contrast]) -> tuple[Contrast, ...]:
    """The contrasts with ``p_holm``: corrected for all tests of the same measure."""
    corrected: dict[int, float] = {}
    for measure in {c.measure for c in contrasts}:
        own = [i for i, c in enumerate(contrasts) if c.measure == measure and c.p_value is not None]
        values = holm(np.array([contrasts[i].p_value for i in own], dtype=float))
        corrected |= dict(zip(own, values.tolist(), strict=True))
    return tuple(replace(c, p_holm=corrected.get(i)) for i, c in enumerate(contrasts))


def table_of(value: Any) -> list[dict[str, Any]]:
    """A reliability table as plain rows."""
    rows = [asdict(b) for b in value]
    for row in rows:
        row["accuracy"], row["accuracy_low"], row["accuracy_high"] = row["accuracy"]
    return rows
