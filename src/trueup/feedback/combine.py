"""Several scorers as one: a weighted sum, or an ensemble that distrusts disagreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from trueup.feedback.base import Answered, Scorer
from trueup.ops.watching import member_spread

How = Literal["mean", "min", "mean_minus_variance"]


class WeightedSum:
    """Σ w_i s_i.

    Args:
        parts: scorers with their weights.
    """

    def __init__(self, parts: Sequence[tuple[Scorer, float]]) -> None:
        self.parts = list(parts)

    @property
    def identity(self) -> str:
        """Of every part with its weight."""
        return "sum(" + " + ".join(f"{w:g} * {s.identity}" for s, w in self.parts) + ")"

    def members(self, answers: Sequence[Answered]) -> np.ndarray:
        """What each part says, unweighted, ``[k, n]``."""
        return np.stack([s.score(answers) for s, _ in self.parts])

    def score(self, answers: Sequence[Answered]) -> np.ndarray:
        """``[n]``."""
        return np.array([w for _, w in self.parts]) @ self.members(answers)


class Ensemble:
    """mean, minimum (worst case), or mean − λ · variance over members (Coste et al. 2023, arXiv 2310.02743, eq. 3, 4).

    Args:
        scorers: the members.
        how: which.
        penalty: λ; the variance is over members, divided by their number.
    """

    def __init__(self, scorers: Sequence[Scorer], how: How = "mean", penalty: float = 1.0) -> None:
        self.scorers, self.how, self.penalty = list(scorers), how, penalty

    @property
    def identity(self) -> str:
        """Of every member, and how they are joined."""
        lam = f", {self.penalty:g}" if self.how == "mean_minus_variance" else ""
        return f"{self.how}({', '.join(s.identity for s in self.scorers)}{lam})"

    def members(self, answers: Sequence[Answered]) -> np.ndarray:
        """What each member says, ``[k, n]``."""
        return np.stack([s.score(answers) for s in self.scorers])

    def score(self, answers: Sequence[Answered]) -> np.ndarray:
        """``[n]``."""
        return self.join(self.members(answers))

    def join(self, each: np.ndarray) -> np.ndarray:
        """What the members say, ``[k, n]``, as one, ``[n]``."""
        if self.how == "min":
            return each.min(0)
        return each.mean(0) - (self.penalty * each.var(0) if self.how == "mean_minus_variance" else 0.0)


def score_with_spread(scorer: Scorer, answers: Sequence[Answered]) -> tuple[np.ndarray, float]:
    """Scores, ``[n]``, and how far the members of an ensemble part over them; nan for any other scorer."""
    if not isinstance(scorer, Ensemble):
        return scorer.score(answers), math.nan
    each = scorer.members(answers)
    return scorer.join(each), member_spread(each)
