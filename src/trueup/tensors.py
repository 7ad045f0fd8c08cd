"""What crosses from the forward pass to a loss: log-probabilities and scores, one number a row.

Legend: ``B`` rows of a batch. Log-probabilities are sums over the trained completion tokens, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int

RowFloat: TypeAlias = Float[torch.Tensor, "B"]
RowInt: TypeAlias = Int[torch.Tensor, "B"]
RowBool: TypeAlias = Bool[torch.Tensor, "B"]

_SIDES = {"chosen": "rejected", "rejected": "chosen"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Log-probabilities of chosen and rejected completions under policy and reference.

    Attributes:
        policy_chosen, policy_rejected: πc, πr, summed over completion tokens, ``[B]``.
        reference_chosen, reference_rejected: ρc, ρr; None for reference-free methods.
        chosen_length, rejected_length: |yc|, |yr|, number of summed tokens.
        *_common: the same sums over the first min(|yc|, |yr|) tokens only (LD-DPO); None unless asked for.
        chosen_log_weight, rejected_log_weight: mean_t[log p_t − log Σ_v p_v²] per sequence, detached (WPO).
        preference: probability that chosen is better; None means 1 (hard labels).
    """

    policy_chosen: RowFloat
    policy_rejected: RowFloat
    reference_chosen: RowFloat | None = None
    reference_rejected: RowFloat | None = None
    chosen_length: RowInt | None = None
    rejected_length: RowInt | None = None
    policy_chosen_common: RowFloat | None = None
    policy_rejected_common: RowFloat | None = None
    reference_chosen_common: RowFloat | None = None
    reference_rejected_common: RowFloat | None = None
    chosen_log_weight: RowFloat | None = None
    rejected_log_weight: RowFloat | None = None
    preference: RowFloat | None = None

    def swap(self) -> Pairs:
        """The same pairs with the other answer preferred."""
        swapped = {f.name: getattr(self, _swapped_name(f.name)) for f in fields(self)}
        if self.preference is not None:
            swapped["preference"] = 1 - self.preference
        return Pairs(**swapped)

    def replace(self, **changes: torch.Tensor | None) -> Pairs:
        """A copy with some fields changed."""
        return replace(self, **changes)


def _swapped_name(name: str) -> str:
    for side, other in _SIDES.items():
        if side in name.split("_"):
            return name.replace(side, other)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Log-probabilities of single completions with a good/bad label (KTO and relatives).

    Attributes:
        policy, reference: summed completion log-probabilities, ``[B]``.
        desirable: True where the completion is a good one, ``[B]``.
        kl: batch estimate of KL(policy ‖ reference) in nats, a detached scalar ``[]``; already clamped at 0.
        length: number of summed tokens, ``[B]``.
    """

    policy: RowFloat
    reference: RowFloat | None = None
    desirable: RowBool
    kl: Float[torch.Tensor, ""] | None = None
    length: RowInt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Reward-model scores of chosen and rejected completions, ``[B]`` each."""

    chosen: RowFloat
    rejected: RowFloat
    margin: RowFloat | None = None
    preference: RowFloat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihoods:
    """Summed log-probability and token count of single completions, ``[B]`` each (SFT)."""

    policy: RowFloat
    length: RowInt


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """Sampled tokens of a batch of answers, one after the other, ``[N]`` each; here a row is a token.

    Attributes:
        policy: log π(token) now, with gradient.
        old: the same when it was sampled, detached.
        advantage: how much better than expected the token was, detached.
        reference: log-probability under the reference; None where no loss reads it.
    """

    policy: RowFloat
    old: RowFloat
    advantage: RowFloat
    reference: RowFloat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Value estimates before each sampled token, ``[N]`` each.

    Attributes:
        value: V now, with gradient.
        old: V when the answer was sampled.
        returns: what came after.
    """

    value: RowFloat
    old: RowFloat
    returns: RowFloat
