"""The loss of policy-gradient methods over sampled answers, and how its terms are weighed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from trueup.data.render import CompletionTokens
from trueup.losses.policy import kl_loss, policy_metrics, value_clip
from trueup.models.head import token_figures
from trueup.models.layout import Branches, Layout
from trueup.models.policy import Policy, output_head
from trueup.models.value import Critic
from trueup.tensors import Actions, Values
from trueup.train.loop import Share
from trueup.train.rollout import Experience
from trueup.train.sft import branch_of

PolicyLoss = Callable[[Actions], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the terms of the loss are weighed.

    Attributes:
        policy: of the policy's own loss; 0 while only the critic learns.
        value, entropy, kl, ptx: c_v, c_h, β, c_p; a term of weight 0 is not computed.
        value_clip: ε of the value loss; None: not clipped.
        by_answer: average over an answer's tokens first, then over answers (GRPO); else over all tokens.
    """

    policy: float = 1.0
    value: float = 0.1
    entropy: float = 0.0
    kl: float = 0.0
    ptx: float = 0.0
    value_clip: float | None = 0.2
    by_answer: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """Denominators of a minibatch: its tokens and answers; and its pretraining rows with their tokens."""

    tokens: int
    answers: int
    ptx: Sequence[CompletionTokens] = ()
    ptx_tokens: int = 0


class PolicyObjective:
    """The loss of one minibatch of experiences.

    Args:
        policy: the model in training.
        critic: None without a value model.
        loss: ``Actions`` -> ``[N]``.
        clip: the lower and upper clip of the loss, for its figures.
        weights: of the terms.
        ptx: number of rows -> that many rows of pretraining or SFT text for a step (PPO-ptx); None: none.
    """

    def __init__(
        self,
        policy: Policy,
        critic: Critic | None,
        loss: PolicyLoss,
        clip: tuple[float, float],
        weights: Weights,
        ptx: Callable[[int, int], Sequence[CompletionTokens]] | None = None,
    ) -> None:
        self.policy, self.critic, self.loss, self.clip, self.weights = policy, critic, loss, clip, weights
        self.ptx = ptx

    def hold(self, coefficient: float) -> None:
        """Sets the weight of the KL term."""
        self.weights = replace(self.weights, kl=coefficient)

    def only_value(self) -> PolicyObjective:
        """The same with nothing but the critic's loss."""
        weights = Weights(policy=0.0, value=self.weights.value, value_clip=self.weights.value_clip)
        return PolicyObjective(self.policy, self.critic, self.loss, self.clip, weights)

    def length(self, row: Experience) -> int:
        """Tokens computed for a prompt and its answers."""
        return group_tokens(row.branches, self.policy.shared)

    def identity(self, row: Experience) -> str:
        """The prompt's id."""
        return row.id

    def begin(self, step: int, batch: Sequence[Experience], parts: Sequence[Sequence[int]]) -> Begun:
        """Tokens and answers of the whole minibatch, and the pretraining rows that go with it."""
        del parts
        rows = self.ptx(step, len(batch)) if self.ptx is not None and self.weights.ptx else ()
        return Begun(
            sum(sum(e.lengths) for e in batch),
            sum(len(e.lengths) for e in batch),
            rows,
            sum(int(r.mask.sum()) for r in rows),
        )

    def share(self, batch: Sequence[Experience], part: Sequence[int], begun: Begun) -> Share:
        """The part's experiences, over the tokens (or answers) of the minibatch."""
        rows = [batch[i] for i in part]
        layout = self.policy.layout([e.branches for e in rows])
        states = self.policy.hidden(layout).index_select(0, layout.source)
        figures = token_figures(states, output_head(self.policy.inner), layout.target, extras=self.weights.entropy != 0)
        actions = Actions(
            policy=figures.logprob,
            old=_joined([e.old for e in rows], layout),
            advantage=_joined([e.advantage for e in rows], layout),
            reference=_optional([e.reference for e in rows], layout),
        )
        weight = self._weight(rows, layout, begun)
        terms = {"loss/policy": self.weights.policy * self.loss(actions) * weight}
        if self.weights.entropy and figures.entropy is not None:
            terms["loss/entropy"] = -self.weights.entropy * figures.entropy * weight
        if self.weights.kl:
            terms["loss/kl"] = self.weights.kl * kl_loss(actions) * weight
        if self.critic is not None and self.weights.value:
            terms["loss/value"] = self.weights.value * self._value_loss(rows, layout, states) * weight
        if ours := [r for j, r in enumerate(begun.ptx) if j % len(batch) in part]:
            terms["loss/ptx"] = self.weights.ptx * self._nll(ours) / begun.ptx_tokens
        loss = torch.stack([term.sum() for term in terms.values()]).sum()
        here = len(part) / len(batch)  # the terms are already shares of the step: they add up, counts to 1
        sums = {name: (float(term.detach().sum()), here) for name, term in terms.items()}
        ratio = float((actions.policy.detach() - actions.old).max().exp())
        return Share(loss, {**sums, **self._figures(actions, figures.entropy)}, {"ratio/largest": ratio})

    def _nll(self, rows: Sequence[CompletionTokens]) -> torch.Tensor:
        return -self.policy.tokens(self.policy.layout([branch_of(r) for r in rows])).logprob

    def _value_loss(self, rows: Sequence[Experience], layout: Layout, states: torch.Tensor) -> torch.Tensor:
        assert self.critic is not None
        old, returns = (_optional([getattr(e, name) for e in rows], layout) for name in ("value", "returns"))
        assert old is not None and returns is not None
        values = Values(value=self.critic.values(layout, states), old=old, returns=returns)
        return value_clip(values, clip=self.weights.value_clip)

    def _weight(self, rows: Sequence[Experience], layout: Layout, begun: Begun) -> torch.Tensor:
        if not self.weights.by_answer:
            return torch.tensor(1.0 / begun.tokens, device=layout.ids.device)
        lengths = torch.tensor([n for e in rows for n in e.lengths], device=layout.ids.device)
        return (1.0 / (lengths * begun.answers)).repeat_interleave(lengths)

    def _figures(self, actions: Actions, entropy: torch.Tensor | None) -> dict[str, tuple[float, float]]:
        figures = dict(policy_metrics(actions, clip_low=self.clip[0], clip_high=self.clip[1]))
        if entropy is not None:
            figures["entropy"] = entropy.detach()
        return {name: (float(v.sum()), float(v.numel())) for name, v in figures.items()}


def group_tokens(branches: Branches, shared: bool) -> int:
    """Tokens computed for a prompt and its answers."""
    answers = sum(len(b) for b in branches.branches)
    return answers + len(branches.prefix) * (1 if shared else len(branches.branches))


def _joined(pieces: Sequence[torch.Tensor], layout: Layout) -> torch.Tensor:
    return torch.cat(list(pieces)).to(layout.ids.device)


def _optional(pieces: Sequence[torch.Tensor | None], layout: Layout) -> torch.Tensor | None:
    there = [p for p in pieces if p is not None]
    return _joined(there, layout) if len(there) == len(pieces) else None
