"""Log-probabilities of given tokens from hidden states, without ever holding ``[rows, length, vocabulary]``.

The language-model head is applied to the positions that predict a trained token, a chunk at a time. The backward pass
recomputes each chunk: with p = softmax(z) and y the target, d log p_y / dz = 1_y − p and dH / dz = −p (log p + H).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

CHUNK = 512  # positions; 512 x 49,152 fp32 logits are 100 MB


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer of a causal model.

    Attributes:
        weight: ``[V, H]``; bias: ``[V]`` or None.
        scale: factor on the logits (Cohere, Granite).
        softcap: z -> softcap · tanh(z / softcap) (Gemma 2); None: absent.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[N, H]`` -> ``[N, V]`` in fp32 (fp64 stays)."""
        z = torch.nn.functional.linear(hidden, self.weight, self.bias)
        z = z if z.dtype == torch.float64 else z.float()
        if self.scale != 1.0:
            z = z.mul_(self.scale)
        return z if self.softcap is None else z.div_(self.softcap).tanh_().mul_(self.softcap)


@dataclass(frozen=True, slots=True)
class TokenFigures:
    """What the head says about each trained token, ``[N]`` each.

    Attributes:
        logprob: log p(target), with gradient.
        collision: log Σ_v p_v², detached; None unless asked for.
        entropy: H = −Σ p log p in nats, with gradient; None unless asked for.
    """

    logprob: torch.Tensor
    collision: torch.Tensor | None = None
    entropy: torch.Tensor | None = None


def token_figures(
    hidden: torch.Tensor, head: Head, target: torch.Tensor, *, extras: bool = False, chunk: int = CHUNK
) -> TokenFigures:
    """Log-probability of ``target`` ``[N]`` given ``hidden`` ``[N, H]``.

    Args:
        hidden: states that predict the targets.
        head: the output layer.
        target: token ids.
        extras: also compute entropy and collision probability (one more pass over the logits).
        chunk: positions at a time.
    """
    logprob, entropy, collision = _Head.apply(hidden, head.weight, head.bias, target, head, extras, chunk)  # pyright: ignore[reportGeneralTypeIssues]
    return TokenFigures(logprob, collision if extras else None, entropy if extras else None)


def _chunks(n: int, chunk: int) -> Iterator[slice]:
    return (slice(i, min(i + chunk, n)) for i in range(0, n, chunk))


class _Head(torch.autograd.Function):
    """logprob = z_y − logsumexp(z), chunk by chunk, with z recomputed in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target: torch.Tensor,
        head: Head,
        extras: bool,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n = hidden.shape[0]
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprob, normaliser = hidden.new_empty(n, dtype=dtype), hidden.new_empty(n, dtype=dtype)
        entropy, collision = (hidden.new_empty(n if extras else 0, dtype=dtype) for _ in range(2))
        for part in _chunks(n, chunk):
            z = head.logits(hidden[part])
            normaliser[part] = z.logsumexp(-1)
            logprob[part] = z.gather(-1, target[part, None])[:, 0] - normaliser[part]
            if extras:
                z -= normaliser[part, None]
                p = z.exp()
                collision[part] = p.square().sum(-1).log()
                entropy[part] = -p.mul_(z).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, target, normaliser, entropy)
        ctx.head, ctx.chunk = head, chunk
        ctx.mark_non_differentiable(collision)
        ctx.set_materialize_grads(False)  # an entropy that no loss reads costs nothing
        return logprob, entropy, collision

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        hidden, weight, bias, target, normaliser, entropy = ctx.saved_tensors
        grad = torch.zeros_like(normaliser) if grads[0] is None else grads[0]
        by_entropy, head, n = grads[1], ctx.head, hidden.shape[0]
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = _Sum(weight, n > ctx.chunk) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=normaliser.dtype) if bias is not None and wants_bias else None
        for part in _chunks(n, ctx.chunk):
            z = head.logits(hidden[part])
            slope = 1 - (z / head.softcap).square_() if head.softcap is not None else None
            z = z.sub_(normaliser[part, None])
            spread = None
            if by_entropy is not None:
                spread = (z + entropy[part, None]).mul_(z.exp()).mul_(-by_entropy[part, None])
            z = z.exp_().mul_(-grad[part, None])
            z.scatter_add_(1, target[part, None], grad[part, None])
            if spread is not None:
                z += spread
            if slope is not None:
                z *= slope
            if head.scale != 1.0:
                z *= head.scale
            if grad_bias is not None:
                grad_bias += z.sum(0)
            z = z.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(z, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight.add(z, hidden[part])
        return grad_hidden, grad_weight.total if grad_weight else None, grad_bias, None, None, None, None


class _Sum:
    """Σ zᵀh over chunks: one product when there is one chunk, else summed in fp32 whatever the weights' type."""

    def __init__(self, weight: torch.Tensor, several: bool) -> None:
        wide = torch.float32 if several and weight.dtype in (torch.bfloat16, torch.float16) else weight.dtype
        self.total = torch.empty_like(weight, dtype=wide)
        self.empty = True

    def add(self, z: torch.Tensor, hidden: torch.Tensor) -> None:
        """Adds one chunk's product."""
        if self.total.dtype != hidden.dtype:
            product = z.t() @ hidden
            self.total.copy_(product) if self.empty else self.total.add_(product)
        elif self.empty:
            torch.mm(z.t(), hidden, out=self.total)
        else:
            self.total.addmm_(z.t(), hidden)
        self.empty = False
