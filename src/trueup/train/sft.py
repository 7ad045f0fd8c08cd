"""Supervised fine-tuning: the negative log-likelihood of completion tokens, averaged over the tokens of a batch.

loss = − Σ_rows Σ_t log π(y_t | x, y_<t) / Σ_rows |y|
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from trueup.data.render import CompletionTokens
from trueup.models.layout import Branches
from trueup.models.policy import Policy
from trueup.tensors import Likelihoods
from trueup.train.loop import Share


@dataclass(frozen=True, slots=True)
class _Begun:
    tokens: int


def branch_of(row: CompletionTokens) -> Branches:
    """A completion as a group of one branch."""
    return Branches(row.ids[:0], (row.ids,), (row.mask,))


def row_content(row: CompletionTokens) -> bytes:
    """What makes two rows the same."""
    return row.ids.tobytes() + bytes([bool(row.label)])


class SupervisedObjective:
    """SFT over packed rows.

    Args:
        policy: the model in training.
        loss: ``Likelihoods`` -> ``[B]``, a sum over the row's tokens.
    """

    def __init__(self, policy: Policy, loss: Callable[[Likelihoods], torch.Tensor]) -> None:
        self.policy, self.loss = policy, loss

    def length(self, row: CompletionTokens) -> int:
        """Tokens of the row."""
        return len(row.ids)

    def identity(self, row: CompletionTokens) -> str:
        """The row's id."""
        return row.id

    def begin(self, _step: int, batch: Sequence[CompletionTokens], _parts: Sequence[Sequence[int]]) -> _Begun:
        """Counts the trained tokens of the global batch."""
        return _Begun(sum(int(r.mask.sum()) for r in batch))

    def share(self, batch: Sequence[CompletionTokens], part: Sequence[int], begun: _Begun) -> Share:
        """The part's summed loss over the batch's tokens."""
        losses = self.loss(self._likelihoods([batch[i] for i in part]))
        return Share(losses.sum() / begun.tokens, {"trained_tokens": (float(begun.tokens), 1.0)})

    def _likelihoods(self, rows: Sequence[CompletionTokens]) -> Likelihoods:
        figures = self.policy.sequences(self.policy.layout([branch_of(r) for r in rows]))
        return Likelihoods(policy=figures.logprob, length=figures.lengths)

    @torch.no_grad()
    def figures(self, rows: Sequence[CompletionTokens]) -> dict[str, torch.Tensor]:
        """Loss a token and number of tokens of each row, ``[B]``."""
        likelihoods = self._likelihoods(rows)
        return {"loss": (self.loss(likelihoods) / likelihoods.length).cpu(), "weight": likelihoods.length.float().cpu()}
