"""KTO and its relatives: single completions, each good or bad.

The KL term is estimated on mismatched prompts and completions of the same global batch, before the first gradient, so
that a step is the same however it is cut; KTO (arXiv 2402.01306), section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trueup.data.order import mismatch
from trueup.data.render import CompletionTokens
from trueup.models.layout import Branches
from trueup.models.policy import Policy
from trueup.models.reference import Reference
from trueup.tensors import Labels
from trueup.train import ranks
from trueup.train.loop import Share
from trueup.train.sft import branch_of

LabelLoss = Callable[[Labels], torch.Tensor]
LabelMetrics = Callable[[Labels], Mapping[str, tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class _Begun:
    rows: int
    kl: torch.Tensor | None
    raw_kl: float


class UnpairedObjective:
    """A loss over single labelled completions.

    Args:
        policy: the model in training.
        reference: the reference policy.
        loss: ``Labels`` -> ``[B]``.
        metrics: ``Labels`` -> sums and counts by name.
        needs_kl: whether the loss reads the batch's KL (KTO does, APO-zero does not).
        others: all training rows, from which a mismatch is drawn when the batch has none to offer.
        seed: of the mismatches.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Reference,
        loss: LabelLoss,
        metrics: LabelMetrics,
        *,
        needs_kl: bool,
        others: Sequence[CompletionTokens],
        seed: int,
    ) -> None:
        self.policy, self.reference, self.loss, self.metrics = policy, reference, loss, metrics
        self.needs_kl, self.others, self.seed = needs_kl, others, seed

    def length(self, row: CompletionTokens) -> int:
        """Tokens of the row."""
        return len(row.ids)

    def identity(self, row: CompletionTokens) -> str:
        """The row's id."""
        return row.id

    def begin(self, step: int, batch: Sequence[CompletionTokens], parts: Sequence[Sequence[int]]) -> _Begun:
        """Estimates KL(policy ‖ reference) on mismatched pairs of the whole batch, clamped at 0."""
        if not self.needs_kl:
            return _Begun(len(batch), None, 0.0)
        raw = float(ranks.together(lambda: self._drift(step, batch, parts))) / len(batch)
        return self._with_kl(batch, raw)

    def _with_kl(self, batch: Sequence[CompletionTokens], raw: float) -> _Begun:
        return _Begun(len(batch), torch.tensor(max(0.0, raw), device=self.policy.device), raw)

    @torch.no_grad()
    def _drift(self, step: int, batch: Sequence[CompletionTokens], parts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Σ log π − log ρ over the mismatched rows at ``parts``."""
        mixed = mismatched(batch, self.others, self.seed, step)
        total = torch.zeros((), dtype=torch.float64)
        for part in parts:
            groups = [branch_of(mixed[i]) for i in part]
            ours = self.policy.sequences(self.policy.layout(groups)).logprob
            total += float((ours - self.reference.sequences(groups).logprob).sum())
        return total

    def share(self, batch: Sequence[CompletionTokens], part: Sequence[int], begun: _Begun) -> Share:
        """The part's rows, over the number of rows of the global batch."""
        labels = self.labels([batch[i] for i in part], begun.kl)
        losses = self.loss(labels)
        sums = dict(self.metrics(labels))
        if begun.kl is not None:
            sums["kl"] = (begun.raw_kl * len(part), float(len(part)))
        return Share(losses.sum() / begun.rows, sums)

    def labels(self, rows: Sequence[CompletionTokens], kl: torch.Tensor | None) -> Labels:
        """Forward pass of some rows; gradient follows the caller's grad mode."""
        groups: list[Branches] = [branch_of(r) for r in rows]
        ours = self.policy.sequences(self.policy.layout(groups))
        return Labels(
            policy=ours.logprob,
            reference=self.reference.sequences(groups).logprob,
            desirable=torch.tensor([bool(r.label) for r in rows], device=ours.logprob.device),
            kl=kl,
            length=ours.lengths,
        )

    @torch.no_grad()
    def figures(self, rows: Sequence[CompletionTokens]) -> dict[str, torch.Tensor]:
        """Loss and log-ratio of each row, ``[B]``, with the KL of these rows."""
        begun = _Begun(len(rows), None, 0.0)
        if self.needs_kl:  # of these rows, by this process alone
            begun = self._with_kl(rows, float(self._drift(0, rows, [range(len(rows))])) / len(rows))
        labels = self.labels(rows, begun.kl)
        assert labels.reference is not None
        ratio = labels.policy - labels.reference
        return {
            "loss": self.loss(labels).cpu(),
            "logratio": ratio.cpu(),
            "desirable": labels.desirable.float().cpu(),
        }


def prompt_length(row: CompletionTokens) -> int:
    """Tokens before the first trained one."""
    return int(np.argmax(row.mask))


def mismatched(
    batch: Sequence[CompletionTokens], others: Sequence[CompletionTokens], seed: int, step: int
) -> list[CompletionTokens]:
    """Each prompt of the batch with the completion of another prompt."""
    prompts = [r.ids[: prompt_length(r)].tobytes() for r in batch]
    partner = mismatch(prompts, seed, step)
    rows: list[CompletionTokens] = []
    for i, row in enumerate(batch):
        other = batch[partner[i]] if partner[i] >= 0 else _stranger(row, others, seed, step, i)
        at, cut = prompt_length(row), prompt_length(other)
        rows.append(
            CompletionTokens(
                id=row.id,
                ids=np.concatenate([row.ids[:at], other.ids[cut:]]),
                mask=np.concatenate([row.mask[:at], other.mask[cut:]]),
                label=row.label,
            )
        )
    return rows


def _stranger(
    row: CompletionTokens, others: Sequence[CompletionTokens], seed: int, step: int, place: int
) -> CompletionTokens:
    """A row of another prompt, drawn from all the data; the row itself if there is no other prompt."""
    own = row.ids[: prompt_length(row)].tobytes()
    start = int(np.random.Generator(np.random.Philox(key=[seed, step])).integers(len(others))) + place
    for offset in range(len(others)):
        other = others[(start + offset) % len(others)]
        if other.ids[: prompt_length(other)].tobytes() != own:
            return other
    return row
