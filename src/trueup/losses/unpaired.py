"""Losses over single completions with a good/bad label."""

from __future__ import annotations

import torch

from trueup.tensors import Labels, RowFloat


def _logratio(labels: Labels) -> torch.Tensor:
    if labels.reference is None:
        raise ValueError("this loss needs the reference's log-probabilities")
    ratio = labels.policy - labels.reference
    return ratio if ratio.dtype == torch.float64 else ratio.float()


def kto(
    labels: Labels, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> RowFloat:
    """λD[1 − σ(β(r − z))] for good rows, λU[1 − σ(β(z − r))] for bad ones (arXiv 2402.01306, eq. 8).

    r = log π − log ρ summed over the completion; z = ``labels.kl``, the batch's KL estimate.

    Args:
        labels: ``[B]``.
        beta: how fast the value saturates.
        desirable_weight: λD; keep λD·nD / (λU·nU) in [1, 4/3].
        undesirable_weight: λU.

    Raises:
        ValueError: no reference or no KL.
    """
    if labels.kl is None:
        raise ValueError("kto needs the batch's KL estimate (labels.kl)")
    gain = _logratio(labels) - labels.kl
    good = desirable_weight * (1 - torch.sigmoid(beta * gain))
    bad = undesirable_weight * (1 - torch.sigmoid(-beta * gain))
    return torch.where(labels.desirable, good, bad)


def apo_zero_unpaired(
    labels: Labels, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> RowFloat:
    """λD[1 − σ(βr)] for good rows, λU σ(βr) for bad ones: KTO with the KL at 0 (arXiv 2408.06266, section 3).

    Raises:
        ValueError: no reference.
    """
    z = beta * _logratio(labels)
    good = desirable_weight * (1 - torch.sigmoid(z))
    return torch.where(labels.desirable, good, undesirable_weight * torch.sigmoid(z))
