"""Value estimates: a scalar head on the states that precede each sampled token."""

from __future__ import annotations

import torch

from trueup.models.layout import Layout
from trueup.models.policy import Policy


class ValueHead(torch.nn.Module):
    """V(s) = w · h + b in fp32 (fp64 stays); zero at the start, so that the first values are 0.

    Args:
        width: of a hidden state, ``H``.
        dtype: of the weights.
    """

    def __init__(self, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(width, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """``[N, H]`` -> ``[N]``."""
        return states.to(self.weight.dtype) @ self.weight + self.bias


class Critic:
    """A value head on a trunk: the policy's own, or one of its own.

    Args:
        head: the head.
        trunk: a model of its own; None: the policy's states are handed in.
    """

    def __init__(self, head: ValueHead, trunk: Policy | None = None) -> None:
        self.head, self.trunk = head, trunk

    def values(self, layout: Layout, states: torch.Tensor) -> torch.Tensor:
        """V before each trained token, ``[N]``.

        Args:
            layout: the micro-batch.
            states: the policy's states that predict the trained tokens, ``[N, H]``.
        """
        if self.trunk is not None:
            states = self.trunk.hidden(layout).index_select(0, layout.source)
        return self.head(states)

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """What training changes besides the policy."""
        named = [(f"value_head.{name}", p) for name, p in self.head.named_parameters()]
        if self.trunk is not None:
            named += [(f"critic.{n}", p) for n, p in self.trunk.model.named_parameters() if p.requires_grad]
        return named
