"""From logits to log-probabilities: the plain computations that the fast paths are tested against."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int

_LN2 = math.log(2.0)


def token_logprobs(logits: Float[torch.Tensor, "*b T V"], targets: Int[torch.Tensor, "*b T"]) -> torch.Tensor:
    """Log p(target) at each position, ``[*b, T]``, in fp32 (fp64 stays)."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.log_softmax(-1).gather(-1, targets[..., None])[..., 0]


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 − e^x) for x <= 0, exact next to 0 and far from it; at x = 0 (probability 1) the limit is kept finite.

    log(−expm1(x)) where x > −log 2, else log1p(−e^x) (Mächler 2012). x is clamped at −1e-7 in fp32 (−1e-15 in fp64),
    where the true value is about −16 (−35).
    """
    wide = x if x.dtype == torch.float64 else x.float()
    wide = wide.clamp(max=-1e-15 if wide.dtype == torch.float64 else -1e-7)
    near = wide > -_LN2
    # both branches are computed; each is given harmless input where the other is used, so that gradients stay finite
    by_expm1 = torch.log(-torch.expm1(torch.where(near, wide, -_LN2)))
    by_log1p = torch.log1p(-torch.exp(torch.where(near, -_LN2, wide)))
    return torch.where(near, by_expm1, by_log1p)
