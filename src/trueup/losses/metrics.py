"""What is logged about a batch; separate from the losses, which return one number a row and nothing else."""

from __future__ import annotations

import torch

from trueup.tensors import Labels, Pairs


def preference_metrics(pairs: Pairs, *, beta: float) -> dict[str, torch.Tensor]:
    """Figures of each pair, ``[B]`` by name.

    ``rewards/*`` are β times the log-ratio to the reference (β log π without one); ``rewards/accuracy`` counts ties
    half.
    """
    zero = torch.zeros_like(pairs.policy_chosen)
    chosen = beta * (pairs.policy_chosen - (zero if pairs.reference_chosen is None else pairs.reference_chosen))
    rejected = beta * (pairs.policy_rejected - (zero if pairs.reference_rejected is None else pairs.reference_rejected))
    figures = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margin": chosen - rejected,
        "rewards/accuracy": (chosen > rejected).float() + 0.5 * (chosen == rejected).float(),
        "logps/chosen": pairs.policy_chosen,
        "logps/rejected": pairs.policy_rejected,
    }
    if pairs.chosen_length is not None and pairs.rejected_length is not None:
        figures["logps/chosen_per_token"] = pairs.policy_chosen / pairs.chosen_length
        figures["logps/rejected_per_token"] = pairs.policy_rejected / pairs.rejected_length
        if pairs.reference_chosen is not None:
            figures["logratio/chosen_per_token"] = (pairs.policy_chosen - pairs.reference_chosen) / pairs.chosen_length
            figures["reference/chosen_per_token"] = pairs.reference_chosen / pairs.chosen_length
    return figures


def contradicted(margin: torch.Tensor) -> tuple[float, float]:
    """Σ over pairs ordered against their label of |margin|, and Σ |margin|; their ratio is 0 to 1.

    A model errs where it is unsure, with small margins: the ratio falls below the share of wrong pairs. Swapped labels
    are as wrong where it is sure.
    """
    return float((-margin).clamp(min=0).sum()), float(margin.abs().sum())


def unpaired_metrics(labels: Labels, *, beta: float) -> dict[str, tuple[float, float]]:
    """Sum and count of each figure over the batch, by name: rewards of either class have their own counts."""
    reference = torch.zeros_like(labels.policy) if labels.reference is None else labels.reference
    reward = beta * (labels.policy - reference).detach()
    good = labels.desirable
    return {
        "rewards/desirable": (float(reward[good].sum()), float(good.sum())),
        "rewards/undesirable": (float(reward[~good].sum()), float((~good).sum())),
        "desirable_share": (float(good.sum()), float(good.numel())),
    }
