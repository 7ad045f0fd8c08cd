"""Losses of policy-gradient methods: one number a sampled token, from log-probabilities and advantages.

Here a row is a token: what lies beyond an answer's end is not in the record at all, so nothing can average over it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from trueup.ops.kl import k3
from trueup.tensors import Actions, RowFloat, Values


def ppo_clip(actions: Actions, *, clip_low: float = 0.2, clip_high: float = 0.2) -> RowFloat:
    """−min(ρA, clip(ρ, 1 − εl, 1 + εh) A), ρ = e^(log π − log π_old) (arXiv 1707.06347, eq. 7).

    Two clips: DAPO (arXiv 2503.14476, eq. 10) raises the upper one.

    Args:
        actions: ``[N]``.
        clip_low: εl.
        clip_high: εh.
    """
    ratio = (actions.policy - actions.old).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * actions.advantage, clipped * actions.advantage)


def reinforce(actions: Actions) -> RowFloat:
    """−A log π: its gradient is the policy gradient at π = π_old (Williams 1992)."""
    return -actions.advantage * actions.policy


def value_clip(values: Values, *, clip: float | None = 0.2) -> RowFloat:
    """½ max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²) (the PPO authors' code; arXiv 1707.06347 has no clip).

    Args:
        values: ``[N]``.
        clip: ε; None: ½ (V − R)².
    """
    plain = (values.value - values.returns).square()
    if clip is None:
        return plain / 2
    near = values.old + (values.value - values.old).clamp(-clip, clip)
    return torch.maximum(plain, (near - values.returns).square()) / 2


def kl_loss(actions: Actions) -> RowFloat:
    """KL(π ‖ reference) by k3, as a loss beside the policy's (GRPO, arXiv 2402.03300, eq. 4).

    Raises:
        ValueError: no reference.
    """
    if actions.reference is None:
        raise ValueError("kl_loss needs the reference's log-probabilities")
    return k3(actions.policy - actions.reference)


def policy_metrics(actions: Actions, *, clip_low: float, clip_high: float) -> Mapping[str, torch.Tensor]:
    """Figures of a policy step, ``[N]`` each, over real tokens only.

    ``kl/step``: k3 estimate of KL(π_old ‖ π); ``clip/low``, ``clip/high``: 1 where the ratio is beyond the clip *and*
    the clip acts (its advantage pushes further out); ``ratio``.
    """
    logratio = actions.policy.detach() - actions.old
    ratio = logratio.exp()
    return {
        "ratio": ratio,
        "kl/step": k3(-logratio),
        "clip/low": ((ratio < 1 - clip_low) & (actions.advantage < 0)).to(ratio.dtype),
        "clip/high": ((ratio > 1 + clip_high) & (actions.advantage > 0)).to(ratio.dtype),
    }
