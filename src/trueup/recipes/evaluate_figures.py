"""The figures of one contestant's answers: lengths, variety, refusals, manner, rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trueup.evals.figure import Figure, mean_figure, prompts_of
from trueup.evals.manner import manner_figures
from trueup.evals.refusals import refusal, refusal_figures, refusal_rate
from trueup.evals.shared import shared_answers
from trueup.evals.texts import lengths, repeated_ngrams, variety_across, variety_within
from trueup.feedback.base import Answered

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a scorer gave the answers of one contestant.

    Attributes:
        name: of the figure.
        scorer: identity.
        values: ``[n]``; nan where there is no score.
        reasons: why, one for each of those.
    """

    name: str
    scorer: str
    values: np.ndarray
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class Told:
    """Figures, tables, what could not be computed, and warnings."""

    figures: list[Figure] = field(default_factory=list[Figure])
    tables: dict[str, Any] = field(default_factory=dict[str, Any])
    left_out: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])

    def attempt(self, what: str, figures: Callable[[], Iterable[Figure]]) -> None:
        """Adds figures, or the reason why they cannot be had."""
        try:
            self.figures += figures()
        except ValueError as error:
            self.left_out.append(f"{what}: {error}")


def answer_figures(answers: Sequence[Answered], scores: Sequence[Scores] = (), *, seed: int = 0) -> Told:
    """Everything that can be told of one contestant's answers without a model.

    Args:
        answers: one or more a prompt.
        scores: of the same answers.
        seed: of intervals and groupings.
    """
    told = Told()
    for s in scores:
        _reward(told, answers, s, seed)
    found = lengths(answers, seed=seed)
    told.figures += found.figures
    told.tables["length_words"] = dict(zip(("q05", "q25", "q50", "q75", "q95"), found.words, strict=True))
    told.attempt("distinct, self-BLEU across prompts", lambda: variety_across(answers, seed=seed))
    if len(answers) > len(set(prompts_of(answers))):
        told.attempt("distinct, self-BLEU within prompts", lambda: variety_within(answers))
    told.figures.append(repeated_ngrams(answers))
    _shared(told, answers)
    _refusals(told, answers)
    told.attempt("manner", lambda: manner_figures(answers, seed=seed))
    if empty := sum(not a.answer.strip() for a in answers):
        told.warnings.append(f"{empty} of {len(answers)} answers are empty; they stay in every figure")
    if cut := sum(a.truncated for a in answers):
        told.warnings.append(f"{cut} of {len(answers)} answers were cut at the length limit")
    return told


def _reward(told: Told, answers: Sequence[Answered], scores: Scores, seed: int) -> None:
    """Mean and spread of a reward; what has no score is left out and said."""
    known = np.flatnonzero(~np.isnan(scores.values))
    if lost := len(answers) - len(known):
        told.warnings.append(f"{scores.name}: {lost} of {len(answers)} answers have no score: {scores.reasons[0]}")
    if not len(known):
        told.left_out.append(f"{scores.name}: no answer has a score")
        return
    values, prompts = scores.values[known], prompts_of(answers)
    clusters = [prompts[i] for i in known]
    told.figures.append(mean_figure(scores.name, values, clusters, note=scores.scorer, seed=seed))
    quantiles = dict(zip(("q05", "q25", "q50", "q75", "q95"), np.quantile(values, QUANTILES).tolist(), strict=True))
    spread = {"standard_deviation": float(values.std(ddof=1)) if len(values) > 1 else None}
    told.tables[f"{scores.name}_spread"] = {**spread, "least": float(values.min()), **quantiles,
                                            "most": float(values.max())}  # fmt: skip


def _shared(told: Told, answers: Sequence[Answered]) -> None:
    try:
        found = shared_answers(answers)
    except ValueError as error:
        told.left_out.append(f"answers_shared_by_unrelated_prompts: {error}")
        return
    note = f"unrelated prompts that got the commonest answer: {found.answer.prompts}"
    told.figures.append(replace(found.repeated, note=note))
    if warning := found.warning():
        told.warnings.append(warning)


def _refusals(told: Told, answers: Sequence[Answered]) -> None:
    """Refusals; apart over safe and unsafe prompts where the prompts say which they are."""
    told.figures.append(refusal_rate(answers))
    labels = {a.meta.get("label") for a in answers}
    if not labels & {"safe", "unsafe"}:
        return
    if labels != {"safe", "unsafe"}:
        told.left_out.append(
            "refusal_safe, refusal_unsafe: every prompt needs the label safe or unsafe, and both must occur"
        )
        return
    found = refusal_figures(answers)
    told.figures += [found.safe, found.unsafe, found.gap, found.partial, *found.types]


def measures(answers: Sequence[Answered], scores: Sequence[Scores]) -> Mapping[str, Mapping[str, float]]:
    """What paired tests compare, by measure and prompt (the mean over a prompt's answers)."""
    prompts = prompts_of(answers)
    columns: dict[str, np.ndarray] = {s.name: s.values for s in scores}
    columns["length_words"] = np.array([float(len(a.answer.split())) for a in answers])
    columns["refusal_rate"] = np.array([float(refusal(a.answer) is not None) for a in answers])
    found: dict[str, dict[str, float]] = {}
    for name, values in columns.items():
        by_prompt: dict[str, list[float]] = {}
        for prompt, value in zip(prompts, values.tolist(), strict=True):
            if not np.isnan(value):
                by_prompt.setdefault(prompt, []).append(value)
        found[name] = {prompt: float(np.mean(own)) for prompt, own in by_prompt.items()}
    return found
