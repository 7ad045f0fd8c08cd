"""Estimators of KL(π ‖ ρ) from samples of π, with u = log π − log ρ (Schulman 2020, "Approximating KL divergence")."""

from __future__ import annotations

import torch


def k1(logratio: torch.Tensor) -> torch.Tensor:
    """u: unbiased, may be negative, high variance."""
    return logratio


def k2(logratio: torch.Tensor) -> torch.Tensor:
    """u²/2: biased upwards away from u = 0, low variance; its gradient is that of KL(ρ ‖ π) near π = ρ."""
    return logratio.square() / 2


def k3(logratio: torch.Tensor) -> torch.Tensor:
    """e^(−u) − 1 + u: unbiased, never negative, low variance."""
    return torch.expm1(-logratio) + logratio
