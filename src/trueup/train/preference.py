"""DPO and every other pairwise method: the same step, another loss.

for a global batch of pairs (x, yc, yr):
    π = log-probabilities of yc and yr under the policy     (prompt computed once)
    ρ = the same under the reference, without gradient
    loss = mean over pairs of ℓ(π, ρ)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from trueup.data.render import PairTokens
from trueup.losses.metrics import contradicted
from trueup.models.layout import Branches
from trueup.models.policy import Policy
from trueup.models.reference import Reference
from trueup.tensors import Pairs
from trueup.train import ranks
from trueup.train.loop import Share

PairLoss = Callable[[Pairs], torch.Tensor]
PairMetrics = Callable[[Pairs], Mapping[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a loss reads besides the policy's sums.

    Attributes:
        common: sums over the common length (LD-DPO).
        weights: WPO weights.
        coupled: rows of a batch depend on each other (AOT sorts them).
    """

    common: bool = False
    weights: bool = False
    coupled: bool = False


@dataclass(frozen=True, slots=True)
class _Begun:
    """Gradient of the batch loss with respect to each log-probability, for coupled losses cut into micro-batches."""

    rows: int
    coupled: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # ∂/∂πc [B], ∂/∂πr [B], loss [B]


def branches_of(pair: PairTokens) -> Branches:
    """A pair as one prompt with two branches."""
    at = pair.shared
    return Branches(
        pair.chosen.ids[:at],
        (pair.chosen.ids[at:], pair.rejected.ids[at:]),
        (pair.chosen.mask[at:], pair.rejected.mask[at:]),
    )


def pair_content(row: PairTokens) -> bytes:
    """What makes two pairs the same."""
    return b"|".join(side.ids.tobytes() for side in (row.chosen, row.rejected))


class PreferenceObjective:
    """A pairwise loss over a policy and, where the loss wants one, a reference.

    Args:
        policy: the model in training.
        reference: None for reference-free methods.
        loss: ``Pairs`` -> ``[B]``.
        metrics: ``Pairs`` -> figures ``[B]`` by name, for the log.
        needs: what the loss reads.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Reference | None,
        loss: PairLoss,
        metrics: PairMetrics,
        needs: Needs | None = None,
    ) -> None:
        self.policy, self.reference, self.loss, self.metrics = policy, reference, loss, metrics
        self.needs = needs or Needs()

    def length(self, row: PairTokens) -> int:
        """Tokens computed for a pair."""
        whole = len(row.chosen.ids) + len(row.rejected.ids)
        return whole - row.shared if self.policy.shared else whole

    def identity(self, row: PairTokens) -> str:
        """The row's id."""
        return row.id

    def pairs(self, rows: Sequence[PairTokens]) -> Pairs:
        """Forward pass of some pairs; gradient follows the caller's grad mode."""
        groups = [branches_of(r) for r in rows]
        layout = self.policy.layout(groups)
        ours = self.policy.sequences(layout, common=self.needs.common, weights=self.needs.weights)
        reference = None
        if self.reference is not None:
            reference = self.reference.sequences(groups, common=self.needs.common)
        return Pairs(
            policy_chosen=ours.logprob[0::2],
            policy_rejected=ours.logprob[1::2],
            reference_chosen=_side(reference and reference.logprob, 0),
            reference_rejected=_side(reference and reference.logprob, 1),
            chosen_length=layout.lengths[0::2],
            rejected_length=layout.lengths[1::2],
            policy_chosen_common=_side(ours.common, 0),
            policy_rejected_common=_side(ours.common, 1),
            reference_chosen_common=_side(reference and reference.common, 0),
            reference_rejected_common=_side(reference and reference.common, 1),
            chosen_log_weight=_side(ours.log_weight, 0),
            rejected_log_weight=_side(ours.log_weight, 1),
            preference=_preference(rows, layout.ids.device),
        )

    def begin(self, step: int, batch: Sequence[PairTokens], parts: Sequence[Sequence[int]]) -> _Begun:
        """Counts the rows; for a coupled loss in several parts, finds its gradient over the whole batch first."""
        del step
        if not self.needs.coupled or (len(parts) == 1 and ranks.world() == 1):
            return _Begun(len(batch))
        whole = self._whole(batch, parts)
        chosen = whole.policy_chosen.detach().requires_grad_()
        rejected = whole.policy_rejected.detach().requires_grad_()
        losses = self.loss(whole.replace(policy_chosen=chosen, policy_rejected=rejected))
        by_chosen, by_rejected = torch.autograd.grad(losses.mean(), (chosen, rejected))
        return _Begun(len(batch), (by_chosen, by_rejected, losses.detach()))

    @torch.no_grad()
    def _whole(self, batch: Sequence[PairTokens], parts: Sequence[Sequence[int]]) -> Pairs:
        """Every pair of the batch without a graph; each process computes its parts, all get all."""
        names: list[str] = []

        def columns() -> torch.Tensor:
            rows: torch.Tensor | None = None
            for part in parts:
                found = _fields(self.pairs([batch[i] for i in part]))
                names[:] = found
                if rows is None:
                    rows = torch.zeros(len(found), len(batch), dtype=torch.float64)
                rows[:, list(part)] = torch.stack([v.double().cpu() for v in found.values()])
            assert rows is not None
            return rows

        table = ranks.together(columns).to(self.policy.device)
        lengths = ("chosen_length", "rejected_length")
        dtype = torch.float64 if self.policy.inner.dtype == torch.float64 else torch.float32
        return Pairs(
            **{name: row.long() if name in lengths else row.to(dtype) for name, row in zip(names, table, strict=True)}
        )

    def share(self, batch: Sequence[PairTokens], part: Sequence[int], begun: _Begun) -> Share:
        """The part's rows, over the number of rows of the global batch."""
        pairs = self.pairs([batch[i] for i in part])
        if begun.coupled is None:
            loss = self.loss(pairs).sum() / begun.rows
        else:
            by_chosen, by_rejected, losses = (t[list(part)] for t in begun.coupled)
            surrogate = (by_chosen * pairs.policy_chosen + by_rejected * pairs.policy_rejected).sum()
            loss = losses.sum() / begun.rows + surrogate - surrogate.detach()
        figures = self.metrics(_detached(pairs))
        sums = {name: (float(v.sum()), float(v.numel())) for name, v in figures.items()}
        if "rewards/margin" in figures:
            sums["rewards/contradicted"] = contradicted(figures["rewards/margin"])
        return Share(loss, sums)

    @torch.no_grad()
    def figures(self, rows: Sequence[PairTokens]) -> dict[str, torch.Tensor]:
        """Loss and metrics of each row, ``[B]`` by name, for evaluation."""
        pairs = self.pairs(rows)
        return {"loss": self.loss(pairs).cpu(), **{k: v.cpu() for k, v in self.metrics(pairs).items()}}


def _side(both: torch.Tensor | None, side: int) -> torch.Tensor | None:
    return None if both is None else both[side::2]


def _preference(rows: Sequence[PairTokens], device: torch.device) -> torch.Tensor | None:
    if all(r.preference is None for r in rows):
        return None
    return torch.tensor([1.0 if r.preference is None else r.preference for r in rows], device=device)


def _fields(pairs: Pairs) -> dict[str, torch.Tensor]:
    return {name: v for name in Pairs.__slots__ if (v := getattr(pairs, name)) is not None}


def _detached(pairs: Pairs) -> Pairs:
    return Pairs(**{name: v.detach() for name, v in _fields(pairs).items()})
