"""What the policy did and what came of it: sampled answers with everything a policy-gradient step reads.

Legend: ``S`` answers of a batch, ``T`` tokens of the longest, ``N`` sampled tokens, one answer after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trueup.models.layout import Branches
from trueup.models.sampling import Sample
from trueup.ops.kl import k1, k3
from trueup.ops.returns import (
    explained_variance,
    gae,
    grpo,
    rewards_to_go,
    rloo,
    token_rewards,
    whiten,
)
from trueup.ops.watching import multiplicative_error
from trueup.types import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt to be answered.

    Attributes:
        id: of its row.
        ids: its tokens, ``[P]``.
        prompt: the same as text or turns, for the scorer.
        meta: further fields of the row.
    """

    id: str
    ids: np.ndarray
    prompt: Text
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """One prompt with its answers, and what a step needs of each sampled token; the ``[N]`` of its own answers.

    Attributes:
        id: of the prompt.
        branches: prompt and answers; every token of an answer is a target.
        lengths: tokens of each answer.
        old: log π when sampled, ``[N]``.
        advantage: ``[N]``.
        reference: log-probability under the reference, ``[N]``, or None.
        value, returns: old value estimates and what came after, ``[N]``, or None without a critic.
    """

    id: str
    branches: Branches
    lengths: tuple[int, ...]
    old: torch.Tensor
    advantage: torch.Tensor
    reference: torch.Tensor | None = None
    value: torch.Tensor | None = None
    returns: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Answers with their figures, before advantages; sequences group by group.

    Attributes:
        group: which prompt each answer is to, ``[S]``.
        lengths: ``[S]``.
        score: what the scorer said, shaped, ``[S]``.
        old, reference, value: ``[N]``; the latter two may be None.
    """

    group: torch.Tensor
    lengths: torch.Tensor
    score: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor | None
    value: torch.Tensor | None

    @property
    def mask(self) -> torch.Tensor:
        """True at an answer's own tokens, ``[S, T]``."""
        return torch.arange(int(self.lengths.max()))[None] < self.lengths[:, None]

    def padded(self, flat: torch.Tensor) -> torch.Tensor:
        """``[N]`` as ``[S, T]``, 0 beyond each answer."""
        mask = self.mask
        return flat.new_zeros(mask.shape).masked_scatter(mask, flat)

    @property
    def logratio(self) -> torch.Tensor:
        """Log π − log ρ of each token, ``[N]``; 0 without a reference."""
        return torch.zeros_like(self.old) if self.reference is None else self.old - self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """How rewards become advantages.

    Attributes:
        kind: ``gae``, ``rloo``, ``grpo`` or ``reinforce``.
        gamma, lam: of GAE; gamma also of ``reinforce``.
        kl_coefficient: k of the KL in the reward; 0: the KL is not in the reward.
        kl_estimator: ``k1`` or ``k3``.
        whiten_advantages: mean 0 and deviation 1 over the batch's tokens.
        whiten_rewards: divide token rewards by their deviation (their mean stays).
    """

    kind: str = "gae"
    gamma: float = 1.0
    lam: float = 0.95
    kl_coefficient: float = 0.0
    kl_estimator: str = "k1"
    whiten_advantages: bool = True
    whiten_rewards: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Credited:
    """Advantages, and the returns a critic learns, ``[N]`` each; ``reward`` is the whole of an answer, ``[S]``."""

    advantage: torch.Tensor
    returns: torch.Tensor | None
    reward: torch.Tensor


def credit(judged: Judged, how: Credit) -> Credited:
    """From scores and log-probabilities to one advantage a token.

    gae: :func:`trueup.ops.returns.gae` over token rewards and old values. reinforce: reward-to-go minus the mean
    reward of the batch. rloo, grpo: the reward of the whole answer against those of the same prompt.

    Raises:
        ValueError: ``gae`` without values; a group of one answer for rloo and grpo.
    """
    mask = judged.mask
    kl = (k3 if how.kl_estimator == "k3" else k1)(judged.logratio)
    rewards = token_rewards(judged.score, judged.padded(kl), mask, coefficient=how.kl_coefficient)
    if how.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    whole = rewards.sum(1)
    returns: torch.Tensor | None = None
    if how.kind == "gae":
        if judged.value is None:
            raise ValueError("gae needs values")
        advantages, padded = gae(rewards, judged.padded(judged.value), mask, gamma=how.gamma, lam=how.lam)
        returns = padded[mask]
    elif how.kind == "reinforce":
        advantages = torch.where(mask, rewards_to_go(rewards, mask, gamma=how.gamma) - whole.mean(), 0.0)
    else:
        per_answer = rloo(whole, judged.group) if how.kind == "rloo" else grpo(whole, judged.group)
        advantages = torch.where(mask, per_answer[:, None], 0.0)
    if how.whiten_advantages:
        advantages = whiten(advantages, mask)
    return Credited(advantage=advantages[mask], returns=returns, reward=whole)


def branches_of(task: Task, answers: Sequence[Sample]) -> Branches:
    """A prompt and its answers as one group; every answer token is a target."""
    ids = tuple(_ids(a) for a in answers)
    return Branches(task.ids, ids, tuple(np.ones(len(i), dtype=bool) for i in ids))


def _ids(answer: Sample) -> np.ndarray:
    if answer.ids is None or len(answer.ids) == 0:
        raise ValueError(f"{answer.prompt}: answer {answer.index} has no token ids")
    return answer.ids


def experiences(
    tasks: Sequence[Task], groups: Sequence[Branches], judged: Judged, credited: Credited
) -> list[Experience]:
    """Cut up again, one record a prompt."""
    records: list[Experience] = []
    start = 0
    for task, branches in zip(tasks, groups, strict=True):
        lengths = tuple(len(b) for b in branches.branches)
        part = slice(start, start + sum(lengths))
        start += sum(lengths)
        records.append(
            Experience(
                id=task.id,
                branches=branches,
                lengths=lengths,
                old=judged.old[part],
                advantage=credited.advantage[part],
                reference=None if judged.reference is None else judged.reference[part],
                value=None if judged.value is None else judged.value[part],
                returns=None if credited.returns is None else credited.returns[part],
            )
        )
    return records


def rollout_metrics(judged: Judged, credited: Credited, samples: Sequence[Sample]) -> dict[str, float]:
    """Figures of a batch of answers; KL in nats an answer, with its standard error; nothing averages over padding."""
    mask = judged.mask
    figures = {
        "reward": float(credited.reward.mean()),
        "score": float(judged.score.mean()),
        "score/std": float(judged.score.std(correction=0)),
        "length": float(judged.lengths.double().mean()),
        "truncated": sum(s.finish == "length" for s in samples) / len(samples),
    }
    if judged.reference is not None:
        by_answer = judged.padded(k1(judged.logratio)).sum(1)
        figures |= {
            "kl": float(by_answer.mean()),
            "kl/se": float(by_answer.std(correction=0)) / len(by_answer) ** 0.5,
            "kl/k3": float(judged.padded(k3(judged.logratio)).sum(1).mean()),
        }
    drawn = [s.model_logprobs for s in samples]
    if all(d is not None for d in drawn):
        sampler = torch.from_numpy(np.concatenate([d for d in drawn if d is not None])).to(judged.old.dtype)
        gap = judged.old - sampler
        figures["sampler/kl"] = float(k3(-gap).mean())
        figures["sampler/largest"] = float(gap.abs().max())
        figures["sampler/error"] = multiplicative_error(gap.double().numpy())
    if judged.value is not None and credited.returns is not None:
        figures["value/explained_variance"] = explained_variance(judged.value, credited.returns)
        figures["value/mean"] = float(judged.value.mean())
    assert int(mask.sum()) == len(judged.old)
    return figures
