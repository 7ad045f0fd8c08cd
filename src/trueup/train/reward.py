"""Reward model: a scalar head on the last token, trained so that the chosen answer scores above the rejected one.

loss = mean over pairs of −log σ(r(x, yc) − r(x, yr)); InstructGPT (arXiv 2203.02155), equation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from trueup.data.render import PairTokens
from trueup.losses.metrics import contradicted
from trueup.models.policy import Policy
from trueup.tensors import Scores
from trueup.train.loop import Share
from trueup.train.preference import branches_of


class RewardObjective:
    """Bradley-Terry training over pairs; the prompt is computed once for both answers.

    Args:
        policy: a sequence-classification model with one output.
        loss: ``Scores`` -> ``[B]``.
    """

    def __init__(self, policy: Policy, loss: Callable[[Scores], torch.Tensor]) -> None:
        self.policy, self.loss = policy, loss

    def length(self, row: PairTokens) -> int:
        """Tokens computed for a pair."""
        whole = len(row.chosen.ids) + len(row.rejected.ids)
        return whole - row.shared if self.policy.shared else whole

    def identity(self, row: PairTokens) -> str:
        """The row's id."""
        return row.id

    def begin(self, _step: int, batch: Sequence[PairTokens], _parts: Sequence[Sequence[int]]) -> int:
        """The number of pairs."""
        return len(batch)

    def share(self, batch: Sequence[PairTokens], part: Sequence[int], begun: int) -> Share:
        """The part's rows, over the number of rows of the global batch."""
        scores = self.scores([batch[i] for i in part])
        figures = _metrics(scores)
        sums = {name: (float(v.detach().sum()), float(v.numel())) for name, v in figures.items()}
        return Share(
            self.loss(scores).sum() / begun, {**sums, "contradicted": contradicted(figures["margin"].detach())}
        )

    def scores(self, rows: Sequence[PairTokens]) -> Scores:
        """Forward pass of some pairs."""
        layout = self.policy.layout([branches_of(r) for r in rows])
        both = self.policy.scores(layout)
        return Scores(
            chosen=both[0::2],
            rejected=both[1::2],
            margin=_column([r.margin for r in rows], both.device),
            preference=_column([r.preference for r in rows], both.device, 1.0),
        )

    @torch.no_grad()
    def figures(self, rows: Sequence[PairTokens]) -> dict[str, torch.Tensor]:
        """Loss and metrics of each row, ``[B]`` by name; and what picking the longer answer would get right."""
        scores = self.scores(rows)
        longer = torch.tensor([float(len(r.chosen.ids) - len(r.rejected.ids)) for r in rows])
        return {
            "loss": self.loss(scores).cpu(),
            **{k: v.cpu() for k, v in _metrics(scores).items()},
            "longer_accuracy": (longer > 0).float() + 0.5 * (longer == 0).float(),
        }


def _metrics(scores: Scores) -> dict[str, torch.Tensor]:
    margin = scores.chosen - scores.rejected
    return {
        "accuracy": (margin > 0).float() + 0.5 * (margin == 0).float(),
        "margin": margin,
        "score/chosen": scores.chosen,
        "score/rejected": scores.rejected,
    }


def _column(values: Sequence[float | None], device: torch.device, default: float = 0.0) -> torch.Tensor | None:
    if all(v is None for v in values):
        return None
    return torch.tensor([default if v is None else v for v in values], device=device)
