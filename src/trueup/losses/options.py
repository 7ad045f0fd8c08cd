"""Options that go with every pairwise loss they mean something for, and weighted mixtures.

Each option is a function from Pairs to Pairs (or a factor on the result), applied before the loss itself, so no loss
knows of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.nn.functional import logsigmoid

from trueup.losses.preference import lengths, logratios, widened
from trueup.tensors import Pairs

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]
PairLoss = Callable[[Pairs], torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """Orthogonal options of pairwise losses; the defaults change nothing.

    Attributes:
        length_norm: divide every log-probability by its completion's number of tokens.
        ld_alpha: LD-DPO (arXiv 2409.06411): tokens beyond min(|yc|, |yr|) count α, in policy and reference.
        wpo: WPO (arXiv 2406.11827, eq. 2): weigh each pair by how likely both answers are under the policy, at most 1.
        reference_free: take the reference as uniform.
        f_divergence: (arXiv 2309.16240) reverse_kl (DPO), forward_kl, js or alpha.
        alpha_coefficient: α of the alpha divergence.
        sft_weight: adds this times the NLL a token of the chosen answer.
    """

    length_norm: bool = False
    ld_alpha: float | None = None
    wpo: bool = False
    reference_free: bool = False
    f_divergence: Divergence = "reverse_kl"
    alpha_coefficient: float = 0.5
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.ld_alpha is not None and not 0 <= self.ld_alpha <= 1:
            raise ValueError(f"ld_alpha must be in [0, 1], got {self.ld_alpha}")
        if self.sft_weight < 0:
            raise ValueError(f"sft_weight must not be below 0, got {self.sft_weight}")
        if self.f_divergence not in ("reverse_kl", "forward_kl", "js", "alpha"):
            raise ValueError(f"f_divergence must be reverse_kl, forward_kl, js or alpha, got {self.f_divergence!r}")

    def used(self) -> set[str]:
        """Names of the options that differ from their defaults."""
        names = {f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        if self.alpha_coefficient != 0.5 and self.f_divergence != "alpha":
            raise ValueError("alpha_coefficient has no effect without f_divergence: alpha")
        return names - {"alpha_coefficient"}


def ld_weighted(pairs: Pairs, alpha: float) -> Pairs:
    """Common + α (whole − common), in policy and reference alike.

    Raises:
        ValueError: the pairs hold no sums over the common length.
    """
    changes: dict[str, torch.Tensor | None] = {}
    for side in ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected"):
        whole, common = getattr(pairs, side), getattr(pairs, f"{side}_common")
        if whole is None:
            continue
        if common is None:
            raise ValueError(f"ld_alpha needs {side}_common")
        changes[side] = common + alpha * (whole - common)
    return pairs.replace(**changes)


def length_normalised(pairs: Pairs) -> Pairs:
    """Every sum divided by its completion's length; the lengths become 1."""
    chosen, rejected = lengths(pairs)
    changes: dict[str, torch.Tensor | None] = {
        "chosen_length": torch.ones_like(chosen),
        "rejected_length": torch.ones_like(rejected),
    }
    for side, length in (("chosen", chosen), ("rejected", rejected)):
        for who in ("policy", "reference"):
            value = getattr(pairs, f"{who}_{side}")
            changes[f"{who}_{side}"] = None if value is None else value / length
    return pairs.replace(**changes)


def without_reference(pairs: Pairs) -> Pairs:
    """The reference taken as uniform: its log-probabilities are 0, over the common length too."""
    zero = torch.zeros_like(pairs.policy_chosen)
    return pairs.replace(
        reference_chosen=zero, reference_rejected=zero, reference_chosen_common=zero, reference_rejected_common=zero
    )


def divergence_scored(pairs: Pairs, divergence: Divergence, alpha: float) -> Pairs:
    """Log-ratios c, r replaced by s(c), s(r), so that a loss of Δ sees s(c) − s(r).

    s(x) = x (reverse KL), −e^(−x) (forward KL), log σ(x) (JS), e^((α−1)x)/(α−1) (alpha).
    """
    c, r = logratios(pairs)
    scores: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "reverse_kl": lambda x: x,
        "forward_kl": lambda x: -torch.exp(-x),
        "js": logsigmoid,
        "alpha": lambda x: torch.exp((alpha - 1) * x) / (alpha - 1),
    }
    score = scores[divergence]
    zero = torch.zeros_like(c)
    return pairs.replace(
        policy_chosen=score(c), policy_rejected=score(r), reference_chosen=zero, reference_rejected=zero
    )


def with_options(loss: PairLoss, options: Options) -> PairLoss:
    """A loss that applies the options first."""

    def optioned(pairs: Pairs) -> torch.Tensor:
        pairs = seen = widened(pairs)
        if options.reference_free:
            seen = without_reference(seen)
        if options.ld_alpha is not None:
            seen = ld_weighted(seen, options.ld_alpha)
        if options.length_norm:
            seen = length_normalised(seen)
        if options.f_divergence != "reverse_kl":
            seen = divergence_scored(seen, options.f_divergence, options.alpha_coefficient)
        result = loss(seen)
        if options.wpo:
            if pairs.chosen_log_weight is None or pairs.rejected_log_weight is None:
                raise ValueError("wpo needs chosen_log_weight and rejected_log_weight")
            result = result * (pairs.chosen_log_weight + pairs.rejected_log_weight).exp().clamp(max=1.0).detach()
        if options.sft_weight:
            chosen, _ = lengths(pairs)
            result = result - options.sft_weight * pairs.policy_chosen / chosen
        return result

    return optioned


def mixture(terms: Sequence[tuple[PairLoss, float]]) -> PairLoss:
    """Σ weight · loss, row by row."""

    def mixed(pairs: Pairs) -> torch.Tensor:
        total = torch.zeros_like(pairs.policy_chosen)
        for loss, weight in terms:
            total = total + weight * loss(pairs)
        return total

    return mixed


def bound(fn: Callable[..., torch.Tensor], arguments: Mapping[str, Any]) -> PairLoss:
    """A loss with its hyper-parameters filled in."""

    def loss(pairs: Pairs) -> torch.Tensor:
        return fn(pairs, **arguments)

    return loss
