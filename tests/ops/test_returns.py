"""Rewards to advantages: worked numbers, and padding that changes no bit."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from trueup.ops.returns import (
    KLCoefficient,
    Moments,
    equal_groups,
    explained_variance,
    gae,
    grpo,
    rewards_to_go,
    rloo,
    token_rewards,
    whiten,
)


def wide(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


VALUES, REWARDS = wide([0.1, 0.2, 0.3]), wide([-0.01, 0.02, 1.0])
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_gae_golden() -> None:
    advantages, returns = gae(REWARDS, VALUES, ALL, gamma=1.0, lam=0.95)
    assert advantages.tolist()[0] == pytest.approx([0.83575, 0.785, 0.7], abs=1e-12)
    assert returns.tolist()[0] == pytest.approx([0.93575, 0.985, 1.0], abs=1e-12)


def test_gae_with_a_discount_by_hand() -> None:
    # d3 = 1 - .3 = .7; d2 = .02 + .9*.3 - .2 = .09; d1 = -.01 + .9*.2 - .1 = .07; A2 = .09 + .45*.7; A1 = .07 + .45*A2
    advantages, _ = gae(REWARDS, VALUES, ALL, gamma=0.9, lam=0.5)
    assert advantages.tolist()[0] == pytest.approx([0.07 + 0.45 * 0.405, 0.405, 0.7], abs=1e-12)


def test_gae_of_one_is_monte_carlo() -> None:
    advantages, returns = gae(REWARDS, VALUES, ALL, gamma=1.0, lam=1.0)
    assert returns.tolist()[0] == pytest.approx([1.01, 1.02, 1.0], abs=1e-12)
    assert advantages.tolist()[0] == pytest.approx([0.91, 0.82, 0.7], abs=1e-12)
    assert rewards_to_go(REWARDS, ALL).tolist() == returns.tolist()


def test_token_rewards_put_the_score_on_the_true_last_token() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    got = token_rewards(wide([5.0, -1.0])[0], wide([0.1, 0.2, 9.0], [0.3, 0.4, 0.5]), mask, coefficient=0.5)
    assert got.tolist() == [pytest.approx([-0.05, 4.9, 0.0]), pytest.approx([-0.15, -0.2, -1.25])]


@pytest.mark.parametrize("more", [1, 7])
def test_padding_changes_no_bit(more: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(4, 9, generator=generator) for _ in range(2))
    mask = torch.arange(9)[None] < torch.tensor([9, 1, 4, 7])[:, None]
    rubbish = torch.full((4, more), torch.nan)
    longer = [torch.cat([x, rubbish], 1) for x in (rewards, values)]
    covered = torch.cat([mask, torch.zeros(4, more, dtype=torch.bool)], 1)
    steps: list[Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = [
        lambda r, v, m: gae(r, v, m)[0],
        lambda r, v, m: gae(r, v, m)[1],
        lambda r, v, m: whiten(r, m),
        lambda r, v, m: whiten(v, m, shift_mean=False),
        lambda r, v, m: token_rewards(r[:, 0], v, m, coefficient=0.1),
    ]
    for step in steps:
        short, long = step(rewards, values, mask), step(longer[0], longer[1], covered)
        assert torch.equal(short[mask], long[covered])
        assert not long[~covered].any()


def test_rloo_by_hand() -> None:
    got = rloo(wide([1.0, 4.0, 1.0, 0.0, 2.0])[0], torch.tensor([0, 1, 0, 0, 1]))
    assert got.tolist() == pytest.approx([1 - 0.5, 4 - 2, 1 - 0.5, 0 - 1, 2 - 4])


def test_grpo_by_hand() -> None:
    returns, group = wide([1.0, 0.0, 0.0, 1.0, 2.0, 2.0])[0], torch.tensor([0, 0, 0, 0, 1, 1])
    deviation = math.sqrt(1 / 3)
    want = [0.5 / (deviation + 1e-4)] + [-0.5 / (deviation + 1e-4)] * 2 + [0.5 / (deviation + 1e-4), 0.0, 0.0]
    assert grpo(returns, group).tolist() == pytest.approx(want)
    assert grpo(returns, group, scale=False).tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5, 0, 0])
    assert equal_groups(returns, group) == 0.5


@pytest.mark.parametrize("baseline", [rloo, grpo])
def test_a_single_answer_has_no_baseline(baseline: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="two answers"):
        baseline(wide([1.0, 2.0, 3.0])[0], torch.tensor([0, 0, 1]))


def test_whitening_by_hand() -> None:
    x, mask = wide([1.0, 3.0, 99.0], [5.0, 7.0, 99.0]), torch.tensor([[True, True, False]] * 2)
    spread = math.sqrt(5.0 + 1e-8)  # mean 4, variance (9 + 1 + 1 + 9) / 4
    assert whiten(x, mask)[mask].tolist() == pytest.approx([-3 / spread, -1 / spread, 1 / spread, 3 / spread])
    kept = whiten(x, mask, shift_mean=False)[mask]
    assert kept.mean().item() == pytest.approx(4.0)


def test_explained_variance_by_hand() -> None:
    returns = wide([1.0, 2.0, 3.0])[0]
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(wide([2.0, 2.0, 2.0])[0], returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert math.isnan(explained_variance(returns, wide([2.0, 2.0, 2.0])[0]))


@pytest.mark.parametrize(
    ("kl", "want"),
    [(6.0, 0.2), (6.6, 0.2 * (1 + 0.1 * 64 / 10_000)), (60.0, 0.2 * (1 + 0.2 * 64 / 10_000)),
     (0.0, 0.2 * (1 - 0.2 * 64 / 10_000))],
)  # fmt: skip
def test_adaptive_coefficient_by_hand(kl: float, want: float) -> None:
    assert KLCoefficient(0.2, target=6.0).after(kl, 64).value == pytest.approx(want, rel=1e-12)


def test_a_fixed_coefficient_stays() -> None:
    assert KLCoefficient(0.05).after(100.0, 64) == KLCoefficient(0.05)


def test_running_moments_are_those_of_everything_seen() -> None:
    numbers = np.random.default_rng(0).normal(3.0, 2.0, 100)
    moments = Moments()
    assert moments.std == 1.0
    for part in np.split(numbers, [1, 7, 60]):
        moments = moments.add(torch.from_numpy(part))
    assert moments.count == 100
    assert moments.mean == pytest.approx(numbers.mean(), rel=1e-12)
    assert moments.std == pytest.approx(numbers.std(ddof=1), rel=1e-12)
