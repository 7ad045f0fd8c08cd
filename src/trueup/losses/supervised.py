"""Supervised fine-tuning."""

from __future__ import annotations

from trueup.tensors import Likelihoods, RowFloat


def nll(likelihoods: Likelihoods) -> RowFloat:
    """−Σ_t log π(y_t | x, y_<t), summed over the row's tokens; the trainer divides by the batch's tokens.

    (Divided so, every token counts alike however rows are batched or accumulated.)
    """
    return -likelihoods.policy.float() if likelihoods.policy.element_size() == 2 else -likelihoods.policy
