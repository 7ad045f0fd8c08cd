"""The reward-model loss."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from trueup.tensors import RowFloat, Scores


def bradley_terry(scores: Scores, *, centring: float = 0.0) -> RowFloat:
    """−log σ(rc − rr − m) + k (rc + rr)² (arXiv 2203.02155, eq. 1; margin m arXiv 2307.09288, eq. 2; k 2312.09244).

    With soft labels p: −p log σ(rc − rr − m) − (1−p) log σ(rr − rc − m).

    Args:
        scores: ``[B]`` scores, and per row a margin and a soft label if there are any.
        centring: k, pulls the mean score of a pair to 0; 0.01 is usual.

    Raises:
        ValueError: centring below 0.
    """
    if centring < 0:
        raise ValueError(f"centring must not be below 0, got {centring}")
    chosen, rejected = (s if s.dtype == torch.float64 else s.float() for s in (scores.chosen, scores.rejected))
    margin = 0.0 if scores.margin is None else scores.margin
    loss = -logsigmoid(chosen - rejected - margin)
    if scores.preference is not None:
        loss = scores.preference * loss - (1 - scores.preference) * logsigmoid(rejected - chosen - margin)
    return loss + centring * (chosen + rejected).square()
