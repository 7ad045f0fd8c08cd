"""What a registry holds: a loss by name, what it eats, and what may be combined with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

LossFunction = Callable[..., torch.Tensor]

LENGTH_NORM = "length_norm"
LD_ALPHA = "ld_alpha"
WPO = "wpo"
REFERENCE_FREE = "reference_free"
F_DIVERGENCE = "f_divergence"
SFT_WEIGHT = "sft_weight"


@dataclass(frozen=True, slots=True)
class Loss:
    """One registered loss.

    Attributes:
        fn: one frozen tensor record in, one number a row out; hyper-parameters are its keyword-only arguments.
        eats: the record: Pairs, Labels, Scores or Likelihoods.
        title: the method's full name.
        equation: the formula, in the notation of ``docs/methods/README.md``.
        source: paper and equation.
        differences: what other implementations do otherwise.
        reference: whether it reads reference log-probabilities.
        coupled: rows of a batch depend on each other.
        needs_kl: reads the batch's KL estimate.
        options: the options of :mod:`trueup.losses.options` that mean something for it.
    """

    fn: LossFunction
    eats: type
    title: str
    equation: str
    source: str
    differences: str = ""
    reference: bool = True
    coupled: bool = False
    needs_kl: bool = False
    options: frozenset[str] = field(default_factory=frozenset[str])

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword-only arguments of the function with their defaults."""
        parameters = inspect.signature(self.fn).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
