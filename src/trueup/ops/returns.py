"""From scores to advantages: token rewards, GAE, group baselines, whitening, the adaptive KL coefficient.

Legend: ``B`` sampled answers, ``T`` tokens of the longest; ``mask`` is True at an answer's own tokens, which stand at
the left. What lies to the right of an answer never counts: more padding gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int

RowFloat: TypeAlias = Float[torch.Tensor, "B"]
RowInt: TypeAlias = Int[torch.Tensor, "B"]
TokenFloat: TypeAlias = Float[torch.Tensor, "B T"]
TokenBool: TypeAlias = Bool[torch.Tensor, "B T"]
FlatFloat: TypeAlias = Float[torch.Tensor, "N"]


def token_rewards(score: RowFloat, kl: TokenFloat, mask: TokenBool, *, coefficient: float) -> TokenFloat:
    """r_t = −k · KL_t, plus the score at the answer's last token (InstructGPT, arXiv 2203.02155, eq. 2).

    Args:
        score: ``[B]``.
        kl: per-token estimate against the reference, ``[B, T]``.
        mask: ``[B, T]``; every answer has at least one token.
        coefficient: k.
    """
    rewards = torch.where(mask, -coefficient * kl, 0.0)
    last = mask.sum(1) - 1
    return rewards.scatter_add(1, last[:, None], score[:, None].to(rewards.dtype))


def gae(
    rewards: TokenFloat, values: TokenFloat, mask: TokenBool, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[TokenFloat, TokenFloat]:
    """Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438, eq. 16), and the returns.

    δ_t = r_t + γ V_{t+1} − V_t;  A_t = δ_t + γλ A_{t+1};  R_t = A_t + V_t; nothing follows the last token.

    Args:
        rewards: ``[B, T]``.
        values: V(s_t), the value before token ``t`` is chosen, ``[B, T]``.
        mask: ``[B, T]``.
        gamma: discount.
        lam: λ, 1: Monte Carlo, 0: one step.

    Returns:
        advantages and returns, ``[B, T]``, 0 beyond the answer.
    """
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        after = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(following)
        delta = rewards[:, t] + gamma * after - values[:, t]
        following = torch.where(mask[:, t], delta + gamma * lam * following, 0.0)
        advantages[:, t] = following
    return advantages, torch.where(mask, advantages + values, 0.0)


def rewards_to_go(rewards: TokenFloat, mask: TokenBool, *, gamma: float = 1.0) -> TokenFloat:
    """Σ_{u ≥ t} γ^(u−t) r_u, ``[B, T]``: what GAE gives without values and with λ = 1."""
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)[0]


def rloo(returns: RowFloat, group: RowInt) -> RowFloat:
    """A_i = R_i − mean of the other answers to the same prompt (Ahmadian et al. 2024, arXiv 2402.14740, eq. 8).

    Args:
        returns: one number an answer, ``[B]``.
        group: which prompt, from 0 without gaps, ``[B]``.

    Raises:
        ValueError: a prompt with a single answer has nothing to be compared with.
    """
    total, count = _by_group(returns, group)
    if bool((count < 2).any()):
        raise ValueError("rloo needs at least two answers a prompt")
    return returns - (total[group] - returns) / (count[group] - 1)


def grpo(returns: RowFloat, group: RowInt, *, scale: bool = True, eps: float = 1e-4) -> RowFloat:
    """A_i = (R_i − mean of the group) / (standard deviation of the group + ε) (Shao et al. 2024, arXiv 2402.03300).

    A group whose answers all have the same return gets 0. The deviation is the sample one (n − 1), as in the authors'
    code; with ``scale=False`` it is left out (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783).

    Args:
        returns: ``[B]``.
        group: ``[B]``, as in :func:`rloo`.
        scale: divide by the deviation.
        eps: ε.

    Raises:
        ValueError: a prompt with a single answer.
    """
    total, count = _by_group(returns, group)
    if bool((count < 2).any()):
        raise ValueError("grpo needs at least two answers a prompt")
    centred = returns - (total / count)[group]
    if not scale:
        return centred
    squares, _ = _by_group(centred.square(), group)
    return centred / ((squares / (count - 1)).sqrt()[group] + eps)


def equal_groups(returns: RowFloat, group: RowInt, *, tolerance: float = 1e-8) -> float:
    """Share of prompts whose answers all have the same return, and so teach nothing."""
    size = int(group.max()) + 1
    low = returns.new_full((size,), torch.inf).scatter_reduce(0, group, returns, "amin")
    high = returns.new_full((size,), -torch.inf).scatter_reduce(0, group, returns, "amax")
    return float((high - low <= tolerance).float().mean())


def _by_group(x: RowFloat, group: RowInt) -> tuple[torch.Tensor, torch.Tensor]:
    size = int(group.max()) + 1
    return (
        x.new_zeros(size).index_add(0, group, x),
        x.new_zeros(size).index_add(0, group, torch.ones_like(x)),
    )


def whiten(x: TokenFloat, mask: TokenBool, *, shift_mean: bool = True, eps: float = 1e-8) -> TokenFloat:
    """(x − mean) / sqrt(var + ε) over the tokens of the mask alone; 0 elsewhere.

    Args:
        x: ``[B, T]``.
        mask: ``[B, T]``.
        shift_mean: False keeps the mean (whitening of rewards, Ziegler et al. 2019).
        eps: ε; the variance is the biased one (divided by n).
    """
    valid = x[mask]
    mean = valid.mean()
    whitened = (valid - mean) * (valid.var(correction=0) + eps).rsqrt()
    return torch.zeros_like(x).masked_scatter(mask, whitened if shift_mean else whitened + mean)


def explained_variance(values: FlatFloat, returns: FlatFloat) -> float:
    """1 − Var(R − V) / Var(R): 1 is perfect, 0 as good as a constant, negative worse; nan if the returns are equal."""
    spread = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / spread) if float(spread) > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class KLCoefficient:
    """k in the reward; adaptive if a target is given (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

    k ← k · (1 + clip(KL / target − 1, −0.2, 0.2) · n / horizon)

    Attributes:
        value: k now.
        target: wanted KL in nats an answer; None: k stays as it is.
        horizon: answers over which an error of 20 % changes k by 20 %.
    """

    value: float
    target: float | None = None
    horizon: float = 10_000.0

    def after(self, kl: float, answers: int) -> KLCoefficient:
        """The coefficient after a batch of ``answers`` with mean ``kl`` nats an answer."""
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return replace(self, value=self.value * (1 + error * answers / self.horizon))


@dataclass(frozen=True, slots=True)
class Moments:
    """Running mean and variance of scores, over everything seen (Chan et al. 1979, parallel update).

    Attributes:
        count: numbers seen.
        mean: their mean.
        squares: Σ (x − mean)².
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, x: FlatFloat) -> Moments:
        """With further numbers."""
        wide = x.double()
        n, mean = float(wide.numel()), float(wide.mean())
        squares = float((wide - mean).square().sum())
        total, delta = self.count + n, mean - self.mean
        return Moments(
            total, self.mean + delta * n / total, self.squares + squares + delta * delta * self.count * n / total
        )

    @property
    def std(self) -> float:
        """Standard deviation (n − 1); 1 before two numbers were seen."""
        return (self.squares / (self.count - 1)) ** 0.5 if self.count > 1 else 1.0
