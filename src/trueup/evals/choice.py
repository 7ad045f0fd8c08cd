"""Multiple choice by log-probability: the model does not answer, it is asked how likely each option is.

A longer option has a lower log-probability, so three readings are given: the sum, per token, and per character. They
often disagree; name the one you report before you see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trueup.data.order import micro_batches
from trueup.data.render import Renderer, RowRejected
from trueup.errors import DataError
from trueup.evals.figure import Figure, rate_figure
from trueup.models.layout import Branches
from trueup.models.policy import Policy
from trueup.types import Example, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A question with options.

    Attributes:
        id: unique.
        question: the same for one question asked in several ways (its options in another order).
        cluster: questions that are not independent share it (one conversation asked about twice).
        prompt: what comes before the option.
        options: their texts; where the prompt is raw text they begin with the blank that separates them from it.
        right: indices of the right ones.
    """

    id: str
    question: str
    cluster: str
    prompt: Text
    options: tuple[str, ...]
    right: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuses a question that cannot be scored.

        Raises:
            DataError: fewer than two options, an empty one, two alike, or no right one among wrong ones.
        """
        if len(self.options) < 2 or len(set(self.options)) < len(self.options) or not all(map(str.strip, self.options)):
            raise DataError(f"choice {self.id}: options: two or more different texts are needed, got {self.options!r}")
        if not self.right or not set(self.right) < set(range(len(self.options))):
            raise DataError(f"choice {self.id}: right: some but not all of the options, got {self.right!r}")


@dataclass(frozen=True, slots=True)
class Scored:
    """A choice with what the model makes of it; arrays are one number an option, ``[k]``.

    Attributes:
        choice: the question.
        logprob: Σ_t log p of the option's tokens given the prompt.
        tokens: how many there are.
    """

    choice: Choice
    logprob: np.ndarray
    tokens: np.ndarray

    @property
    def characters(self) -> np.ndarray:
        """Length of each option, blanks at its ends apart."""
        return np.array([len(o.strip()) for o in self.choice.options])


def top_credit(scores: np.ndarray, right: Sequence[int]) -> float:
    """Share of the highest-scored options that are right: a tie for the top shares the credit (1/#max each).

    Args:
        scores: ``[k]``.
        right: indices of the right options.
    """
    top = np.flatnonzero(scores == scores.max())
    return float(np.isin(top, list(right)).mean())


def too_long(renderer: Renderer, choices: Sequence[Choice]) -> set[str]:
    """Questions of which some option does not fit the renderer's length."""
    found: set[str] = set()
    for choice in choices:
        for option in choice.options:
            try:
                renderer.completion(Example(id=choice.id, origin=choice.id, prompt=choice.prompt, completion=option))
            except RowRejected as error:
                if error.kind == "too_long":
                    found.add(choice.question)
    return found


@torch.no_grad()
def score_choices(
    policy: Policy, renderer: Renderer, choices: Sequence[Choice], *, with_end: bool = False, micro_tokens: int = 4096
) -> list[Scored]:
    """Log-probability of every option, in the order of ``choices``.

    Prompt and option are tokenised together; a token that straddles their border belongs to the option.

    Args:
        policy: the model.
        renderer: turns rows into tokens: with the chat template, or plainly.
        choices: the questions.
        with_end: count the end-of-turn token after the option ("this and nothing more").
        micro_tokens: tokens at once.

    Raises:
        DataError: an option that cannot be rendered, or is too long.
    """
    rows = [(i, k, _row(renderer, c, k, with_end)) for i, c in enumerate(choices) for k in range(len(c.options))]
    logprob = [np.zeros(len(c.options)) for c in choices]
    tokens = [np.zeros(len(c.options), dtype=int) for c in choices]
    for part in micro_batches([len(r.branches[0]) for _, _, r in rows], None, micro_tokens):
        figures = policy.sequences(policy.layout([rows[p][2] for p in part]))
        for p, value, count in zip(part, figures.logprob.tolist(), figures.lengths.tolist(), strict=True):
            i, k, _ = rows[p]
            logprob[i][k], tokens[i][k] = value, count
    return [Scored(c, lp, n) for c, lp, n in zip(choices, logprob, tokens, strict=True)]


def _row(renderer: Renderer, choice: Choice, k: int, with_end: bool) -> Branches:
    try:
        row = renderer.completion(
            Example(id=choice.id, origin=choice.id, prompt=choice.prompt, completion=choice.options[k])
        )
    except RowRejected as error:
        raise DataError(f"choice {choice.id}, option {k}: {error}") from None
    mask = row.mask.copy()
    if not with_end:
        mask[np.flatnonzero(mask)[-1]] = False
    if not mask.any():
        raise DataError(f"choice {choice.id}, option {k}: no token is left to score")
    return Branches(row.ids[:0], (row.ids,), (mask,))


def choice_figures(scored: Sequence[Scored], *, prefix: str = "choice") -> tuple[Figure, ...]:
    """Accuracy by sum, per token and per character (ties share the credit), and the probability of the right options.

    That probability is Σ_right e^s / Σ e^s over the options' sums s (MC2 of TruthfulQA, Lin et al. 2022).

    Raises:
        ValueError: nothing was scored.
    """
    clusters = [s.choice.cluster for s in scored]
    readings = {
        "sum": [s.logprob for s in scored],
        "per_token": [s.logprob / s.tokens for s in scored],
        "per_character": [s.logprob / s.characters for s in scored],
    }
    chance = np.mean([len(s.choice.right) / len(s.choice.options) for s in scored]) if scored else 0.0
    note = f"chance {chance:.2f}"
    figures = [
        rate_figure(
            f"{prefix}_{name}",
            np.array([top_credit(v, s.choice.right) for v, s in zip(values, scored, strict=True)]),
            clusters,
            note=note,
        )
        for name, values in readings.items()
    ]
    right = np.array([right_probability(s) for s in scored])
    figures.append(rate_figure(f"{prefix}_right_probability", right, clusters, note=note))
    return tuple(figures)


def right_probability(scored: Scored) -> float:
    """Probability of the right options among all options, in [0, 1]."""
    weights = np.exp(scored.logprob - scored.logprob.max())
    return float(weights[list(scored.choice.right)].sum() / weights.sum())


def order_figures(scored: Sequence[Scored], *, prefix: str = "choice") -> tuple[Figure, Figure]:
    """Questions asked in both orders: accuracy when orders are averaged, and how often the order decides.

    Returns:
        ``<prefix>_both_orders`` (a half for a tie) and ``<prefix>_order_flips``: the share of questions that are right
        in one order and wrong in the other.

    Raises:
        ValueError: a question that was not asked exactly twice.
    """
    asked: dict[str, list[Scored]] = {}
    for s in scored:
        asked.setdefault(s.choice.question, []).append(s)
    if odd := next((q for q, both in asked.items() if len(both) != 2), None):
        raise ValueError(f"question {odd}: asked {len(asked[odd])} times, not in two orders")
    chances = np.array([[right_probability(s) for s in both] for both in asked.values()])
    clusters = [both[0].choice.cluster for both in asked.values()]
    mean = chances.mean(1)
    right = np.where(mean == 0.5, 0.5, (mean > 0.5).astype(float))
    flips = ((chances[:, 0] - 0.5) * (chances[:, 1] - 0.5) < 0).astype(float)
    return (
        rate_figure(f"{prefix}_both_orders", right, clusters, note="chance 0.50"),
        rate_figure(f"{prefix}_order_flips", flips, clusters),
    )
