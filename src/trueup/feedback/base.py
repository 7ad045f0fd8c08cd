"""Who says how good an answer is: a reward model, a rule, or several of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from trueup.types import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A prompt with one answer to it, as text: every scorer renders it its own way.

    Attributes:
        id: of the prompt row.
        prompt: turns or raw text.
        answer: the answer's text, without end-of-sequence.
        truncated: the answer was cut at its length limit.
        tokens: its length in the policy's tokens; None if unknown.
        meta: further fields of the prompt row (``answer``: the right one, for exact matching ...).
    """

    id: str
    prompt: Text
    answer: str
    truncated: bool = False
    tokens: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Scorer(Protocol):
    """Gives each answer a number; higher is better."""

    @property
    def identity(self) -> str:
        """What scored, for provenance: name and arguments, or path and weights hash."""
        ...

    def score(self, answers: Sequence[Answered]) -> np.ndarray:
        """One finite number an answer, ``[n]`` float64, independent of what else is in the batch.

        Raises:
            ScoringError: an answer could not be scored; no number stands in for it.
        """
        ...
