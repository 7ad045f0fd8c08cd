"""Policy and value losses: both signs of the advantage, both sides of the clip, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trueup.losses.policy import kl_loss, policy_metrics, ppo_clip, reinforce, value_clip
from trueup.tensors import Actions, Values


def wide(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def actions(ratio: float, advantage: float) -> Actions:
    return Actions(policy=wide(math.log(ratio) - 1).requires_grad_(), old=wide(-1.0), advantage=wide(advantage))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "learns"),
    [(1.0, 2.0, -2.0, True), (1.5, 2.0, -2.4, False), (0.5, 2.0, -1.0, True), (1.1, 2.0, -2.2, True),
     (1.0, -2.0, 2.0, True), (1.5, -2.0, 3.0, True), (0.5, -2.0, 1.6, False), (0.9, -2.0, 1.8, True)],
)  # fmt: skip
def test_ppo_clip(ratio: float, advantage: float, loss: float, learns: bool) -> None:
    given = actions(ratio, advantage)
    got = ppo_clip(given)
    assert got.item() == pytest.approx(loss, abs=1e-12)
    (slope,) = torch.autograd.grad(got.sum(), given.policy)
    assert slope.item() == pytest.approx(-ratio * advantage if learns else 0.0, abs=1e-12)


def test_the_two_clips_are_separate() -> None:
    assert ppo_clip(actions(1.5, 1.0), clip_high=0.28).item() == pytest.approx(-1.28)
    assert ppo_clip(actions(0.5, -1.0), clip_low=0.1).item() == pytest.approx(0.9)


def test_reinforce_has_the_gradient_of_ppo_at_ratio_one() -> None:
    given = actions(1.0, 3.0)
    assert reinforce(given).item() == pytest.approx(3.0)
    slopes = [torch.autograd.grad(loss(given).sum(), given.policy)[0].item() for loss in (reinforce, ppo_clip)]
    assert slopes == [pytest.approx(-3.0)] * 2


@pytest.mark.parametrize(
    ("value", "clip", "loss"),
    [(1.1, 0.2, 0.405), (1.5, 0.2, 0.32), (1.5, None, 0.125), (2.5, 0.2, 0.32), (0.5, 0.2, 1.125), (2.0, 0.2, 0.32)],
)
def test_value_clip(value: float, clip: float | None, loss: float) -> None:
    """V_old = 1, R = 2: beyond the clip the value counts as 1.2, so (0.8)²/2 = 0.32, unless it is worse."""
    given = Values(value=wide(value), old=wide(1.0), returns=wide(2.0))
    assert value_clip(given, clip=clip).item() == pytest.approx(loss, abs=1e-12)


def test_kl_loss() -> None:
    given = Actions(policy=wide(-1.0), old=wide(-1.0), advantage=wide(0.0), reference=wide(-1.5))
    assert kl_loss(given).item() == pytest.approx(math.exp(-0.5) - 1 + 0.5)
    with pytest.raises(ValueError, match="reference"):
        kl_loss(actions(1.0, 1.0))


def test_figures() -> None:
    given = Actions(
        policy=wide(0.0, math.log(1.5), math.log(1.5), math.log(0.5)),
        old=wide(0, 0, 0, 0),
        advantage=wide(1, 1, -1, -1),
    )
    got = policy_metrics(given, clip_low=0.2, clip_high=0.2)
    assert got["ratio"].tolist() == pytest.approx([1.0, 1.5, 1.5, 0.5])
    assert got["clip/high"].tolist() == [0, 1, 0, 0]
    assert got["clip/low"].tolist() == [0, 0, 0, 1]
    assert got["kl/step"].tolist() == pytest.approx([0.0, 0.5 - math.log(1.5), 0.5 - math.log(1.5), math.log(2) - 0.5])
