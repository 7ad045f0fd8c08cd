"""Pairwise losses: log-probabilities of chosen and rejected in, one number a pair out.

Notation: πc, πr summed log-probabilities under the policy, ρc, ρr under the reference; c = πc − ρc, r = πr − ρr,
Δ = c − r; |y| tokens of a completion; lc = πc/|yc|, lr = πr/|yr|; σ the sigmoid; q = σ(βΔ).

Inputs in bf16 or fp16 are computed in fp32. Every function takes soft labels: with ``pairs.preference`` = p it returns
p · ℓ(pairs) + (1 − p) · ℓ(pairs with the answers swapped).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
from torch.nn.functional import logsigmoid

from trueup.ops.logprobs import log1mexp
from trueup.tensors import Pairs, RowFloat

P = ParamSpec("P")
PairFunction = Callable[Concatenate[Pairs, P], torch.Tensor]


def widened(pairs: Pairs) -> Pairs:
    """Half-precision fields as fp32."""
    changes = {
        name: value.float()
        for name in Pairs.__slots__
        if isinstance(value := getattr(pairs, name), torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    }
    return pairs.replace(**changes) if changes else pairs


def pairwise(fn: PairFunction[P]) -> PairFunction[P]:
    """Gives a pairwise loss fp32 arithmetic and soft labels."""

    @functools.wraps(fn)
    def loss(pairs: Pairs, *args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        wide = widened(pairs)
        if wide.preference is None:
            return fn(wide, *args, **kwargs)
        hard, p = wide.replace(preference=None), wide.preference
        return p * fn(hard, *args, **kwargs) + (1 - p) * fn(hard.swap(), *args, **kwargs)

    return loss


def logratios(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """C and r, ``[B]`` each.

    Raises:
        ValueError: the pairs hold no reference.
    """
    if pairs.reference_chosen is None or pairs.reference_rejected is None:
        raise ValueError("this loss needs reference_chosen and reference_rejected")
    return pairs.policy_chosen - pairs.reference_chosen, pairs.policy_rejected - pairs.reference_rejected


def lengths(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """|yc| and |yr|, ``[B]`` each.

    Raises:
        ValueError: the pairs hold no lengths.
    """
    if pairs.chosen_length is None or pairs.rejected_length is None:
        raise ValueError("this loss needs chosen_length and rejected_length")
    return pairs.chosen_length, pairs.rejected_length


def per_token(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Lc and lr, ``[B]`` each."""
    chosen, rejected = lengths(pairs)
    return pairs.policy_chosen / chosen, pairs.policy_rejected / rejected


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _smoothed(z: torch.Tensor, epsilon: float) -> torch.Tensor:
    _require(0 <= epsilon < 0.5, f"label_smoothing must be in [0, 0.5), got {epsilon}")
    return -(1 - epsilon) * logsigmoid(z) - epsilon * logsigmoid(-z)


@pairwise
def dpo(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> RowFloat:
    """−(1−ε) log σ(βΔ) − ε log σ(−βΔ); ε = 0 is DPO (arXiv 2305.18290, eq. 7), ε > 0 cDPO (Mitchell 2023, eq. 3).

    Args:
        pairs: ``[B]``.
        beta: strength of the leash to the reference.
        label_smoothing: ε, the assumed share of flipped labels, in [0, 0.5).

    Raises:
        ValueError: ε outside [0, 0.5).
    """
    c, r = logratios(pairs)
    return _smoothed(beta * (c - r), label_smoothing)


@pairwise
def robust(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.1) -> RowFloat:
    """[−(1−ε) log σ(βΔ) + ε log σ(−βΔ)] / (1−2ε): unbiased under flip rate ε (arXiv 2403.00409, eq. 12).

    Raises:
        ValueError: ε outside [0, 0.5).
    """
    _require(0 <= label_smoothing < 0.5, f"label_smoothing must be in [0, 0.5), got {label_smoothing}")
    c, r = logratios(pairs)
    z = beta * (c - r)
    return (-(1 - label_smoothing) * logsigmoid(z) + label_smoothing * logsigmoid(-z)) / (1 - 2 * label_smoothing)


@pairwise
def hinge(pairs: Pairs, *, beta: float = 0.1) -> RowFloat:
    """max(0, 1 − βΔ): SLiC's hinge on DPO's log-ratios (arXiv 2305.10425; arXiv 2309.06657, table 1)."""
    c, r = logratios(pairs)
    return torch.relu(1 - beta * (c - r))


@pairwise
def ipo(pairs: Pairs, *, beta: float = 0.1, average: bool = False) -> RowFloat:
    """(Δ − 1/(2β))² on sums, or on means a token with ``average`` (arXiv 2310.12036, eq. 17; β is the paper's τ).

    Args:
        pairs: ``[B]``.
        beta: τ; the margin aimed at is 1/(2β).
        average: False: the seed form, sums over tokens. True: c/|yc| and r/|yr|.

    Raises:
        ValueError: β not above 0.
    """
    _require(beta > 0, f"beta must be above 0, got {beta}")
    c, r = logratios(pairs)
    if average:
        chosen, rejected = lengths(pairs)
        c, r = c / chosen, r / rejected
    return (c - r - 1 / (2 * beta)).square()


@pairwise
def exo(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> RowFloat:
    """KL(q ‖ smoothed label): q(log q − log(1−ε)) + (1−q)(log(1−q) − log ε) (arXiv 2402.00856, eq. 16).

    Raises:
        ValueError: ε outside (0, 1).
    """
    _require(0 < label_smoothing < 1, f"label_smoothing must be in (0, 1) for exo, got {label_smoothing}")
    c, r = logratios(pairs)
    z = beta * (c - r)
    log_q, log_not_q = logsigmoid(z), logsigmoid(-z)
    first = log_q.exp() * (log_q - math.log1p(-label_smoothing))
    return first + log_not_q.exp() * (log_not_q - math.log(label_smoothing))


@pairwise
def nca(pairs: Pairs, *, beta: float = 0.1) -> RowFloat:
    """−log σ(βc) − ½ log σ(−βc) − ½ log σ(−βr): noise-contrastive alignment (arXiv 2402.05369, eq. 11)."""
    c, r = logratios(pairs)
    return -logsigmoid(beta * c) - 0.5 * logsigmoid(-beta * c) - 0.5 * logsigmoid(-beta * r)


@pairwise
def bco(pairs: Pairs, *, beta: float = 0.1) -> RowFloat:
    """−log σ(βc) − log σ(−βr): binary classifier optimisation without its reward shift δ (arXiv 2404.04656, eq. 12)."""
    c, r = logratios(pairs)
    return -logsigmoid(beta * c) - logsigmoid(-beta * r)


@pairwise
def sppo(pairs: Pairs, *, beta: float = 0.1) -> RowFloat:
    """(c − 1/(2β))² + (r + 1/(2β))²: SPPO with hard win probabilities (arXiv 2405.00675, eq. 4.7; β is 1/η).

    Raises:
        ValueError: β not above 0.
    """
    _require(beta > 0, f"beta must be above 0, got {beta}")
    c, r = logratios(pairs)
    return (c - 0.5 / beta).square() + (r + 0.5 / beta).square()


def aot(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> RowFloat:
    """δ = sort(πc − πr) − sort(ρc − ρr) over the batch, then DPO's form on βδ (arXiv 2406.05882, eq. 3).

    The k-th number belongs to the k-th quantile, not to the k-th row. Soft labels have no meaning here.

    Raises:
        ValueError: soft labels, no reference, or ε outside [0, 0.5).
    """
    pairs = _hard(pairs)
    logratios(pairs)
    assert pairs.reference_chosen is not None and pairs.reference_rejected is not None
    ours = (pairs.policy_chosen - pairs.policy_rejected).sort().values
    theirs = (pairs.reference_chosen - pairs.reference_rejected).sort().values
    return _smoothed(beta * (ours - theirs), label_smoothing)


def aot_unpaired(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> RowFloat:
    """δ = sort(c) − sort(r) over the batch, then DPO's form on βδ (arXiv 2406.05882, eq. 5).

    Raises:
        ValueError: soft labels, no reference, or ε outside [0, 0.5).
    """
    c, r = logratios(_hard(pairs))
    return _smoothed(beta * (c.sort().values - r.sort().values), label_smoothing)


def _hard(pairs: Pairs) -> Pairs:
    if pairs.preference is not None:
        raise ValueError("aot sorts the batch and cannot take soft labels (preference); use dpo")
    return widened(pairs)


@pairwise
def apo_zero(pairs: Pairs, *, beta: float = 0.1) -> RowFloat:
    """1 − σ(βc) + σ(βr): raises the chosen, lowers the rejected (arXiv 2408.06266, eq. 3)."""
    c, r = logratios(pairs)
    return 1 - torch.sigmoid(beta * c) + torch.sigmoid(beta * r)


@pairwise
def apo_down(pairs: Pairs, *, beta: float = 0.1) -> RowFloat:
    """σ(βc) + 1 − σ(βΔ): lowers both, the rejected more (arXiv 2408.06266, eq. 4)."""
    c, r = logratios(pairs)
    return torch.sigmoid(beta * c) + 1 - torch.sigmoid(beta * (c - r))


@pairwise
def discopop(pairs: Pairs, *, beta: float = 0.1, tau: float = 0.05) -> RowFloat:
    """L(1−m) + e^(−βΔ) m with L = −log σ(βΔ), m = σ(βΔ/τ): log-ratio modulated loss (arXiv 2406.08414, eq. 5).

    Raises:
        ValueError: τ not above 0.
    """
    _require(tau > 0, f"tau must be above 0, got {tau}")
    c, r = logratios(pairs)
    z = beta * (c - r)
    # where m vanishes e^(−z) may overflow; m·e^(−z) = e^(−z + log m) does not
    modulated = (-z + logsigmoid(z / tau)).exp()
    return -logsigmoid(z) * torch.sigmoid(-z / tau) + modulated


@pairwise
def sigmoid_norm(pairs: Pairs, *, beta: float = 0.1) -> RowFloat:
    """−log σ(β(c/|yc| − r/|yr|)): DPO on log-ratios a token (arXiv 2411.15124, section 5.1.1; there β = 5)."""
    c, r = logratios(pairs)
    chosen, rejected = lengths(pairs)
    return -logsigmoid(beta * (c / chosen - r / rejected))


@pairwise
def orpo(pairs: Pairs, *, beta: float = 0.1) -> RowFloat:
    """−lc − β log σ(log odds), log odds = lc − lr − [log(1−e^lc) − log(1−e^lr)] (arXiv 2403.07691, eq. 6 and 7).

    Args:
        pairs: ``[B]``; no reference is read.
        beta: λ, weight of the odds-ratio term.
    """
    lc, lr = per_token(pairs)
    log_odds = lc - lr - (log1mexp(lc) - log1mexp(lr))
    return -lc - beta * logsigmoid(log_odds)


@pairwise
def simpo(pairs: Pairs, *, beta: float = 2.0, gamma: float = 0.5) -> RowFloat:
    """−log σ(β lc − β lr − γ) (arXiv 2405.14734, eq. 6).

    Args:
        pairs: ``[B]``; no reference is read.
        beta: scale of the mean log-probabilities.
        gamma: target margin; the authors' code calls γ/β ``gamma_beta_ratio``.
    """
    lc, lr = per_token(pairs)
    return -logsigmoid(beta * (lc - lr) - gamma)


@pairwise
def cpo(pairs: Pairs, *, beta: float = 0.1, alpha: float = 1.0) -> RowFloat:
    """−log σ(β(πc − πr)) + α · (−lc): DPO under a uniform reference, held by an NLL term (arXiv 2401.08417, eq. 5).

    Args:
        pairs: ``[B]``; no reference is read.
        beta: scale of the summed log-probabilities.
        alpha: weight of the NLL a token of the chosen answer.
    """
    lc, _ = per_token(pairs)
    return -logsigmoid(beta * (pairs.policy_chosen - pairs.policy_rejected)) - alpha * lc
