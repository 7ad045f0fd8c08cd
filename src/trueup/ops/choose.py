"""From logits and one uniform number to a token, with its log-probability under what it was drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int

BLOCK = 256  # vocabulary entries that are summed together before a cumulative sum
CANDIDATES = 1024  # likeliest tokens looked at first for top-p, before all are sorted

Logits: TypeAlias = Float[torch.Tensor, "B V"]
RowFloat: TypeAlias = Float[torch.Tensor, "B"]
RowInt: TypeAlias = Int[torch.Tensor, "B"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """One token a row, ``[B]`` each.

    Attributes:
        token: its id.
        logprob: log-probability under the distribution it was drawn from; 0 where greedy.
        model_logprob: the same under the logits as they came.
    """

    token: RowInt
    logprob: RowFloat
    model_logprob: RowFloat


def choose(
    logits: Logits,
    uniform: RowFloat,
    *,
    temperature: float | int = 1.0,
    top_k: int = 0,
    top_p: float | int = 1.0,
    min_p: float | int = 0.0,
) -> Chosen:
    """Draws by inversion: the token at which the cumulative probability first exceeds the uniform number.

    Args:
        logits: ``[B, V]`` in fp32 or fp64.
        uniform: in [0, 1), fp64, ``[B]``.
        temperature: 0 takes the likeliest token (the first of equals).
        top_k: only the k likeliest; equals of the k-th stay. 0: all.
        top_p: only the smallest set of likeliest tokens that holds this probability (Holtzman et al. 2019).
        min_p: only tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082).
    """
    if temperature == 0:
        token = logits.argmax(-1)
        return Chosen(token, logits.new_zeros(len(token)), _at(logits, token) - logits.logsumexp(-1))
    kept = logits if temperature == 1 else logits / temperature
    if top_k or top_p < 1 or min_p:
        kept = filtered(kept, top_k=top_k, top_p=top_p, min_p=min_p)
    token, normaliser = _invert(kept, uniform)
    logprob = _at(kept, token) - normaliser
    if kept is logits:
        return Chosen(token, logprob, logprob)
    return Chosen(token, logprob, _at(logits, token) - logits.logsumexp(-1))


def filtered(logits: Logits, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Logits:
    """The logits with −inf where a filter says no, in the order top-k, top-p, min-p; ``[B, V]``."""
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        logits = logits.masked_fill(logits < _least_of_nucleus(logits, top_p), -torch.inf)
    if min_p:
        least = logits.amax(-1, keepdim=True) + torch.tensor(min_p, dtype=logits.dtype).log()
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits


def _least_of_nucleus(logits: Logits, top_p: float) -> torch.Tensor:
    """The smallest logit within the nucleus, ``[B, 1]``; equals of it stay."""
    normaliser = logits.logsumexp(-1, keepdim=True)
    count = min(CANDIDATES, logits.shape[-1])
    while True:
        ranked = logits.topk(count, dim=-1).values
        held = (ranked - normaliser).double().exp().cumsum(-1)
        if count == logits.shape[-1] or bool((held[:, -1] >= top_p).all()):
            break
        count = logits.shape[-1]
    last = (held < top_p).sum(-1, keepdim=True).clamp(max=count - 1)
    return ranked.gather(1, last)


def _invert(logits: Logits, uniform: RowFloat) -> tuple[torch.Tensor, torch.Tensor]:
    """Token and log-normaliser of each row; sums in fp64, in two levels so that the long cumulative sum is short."""
    highest = logits.amax(-1, keepdim=True)
    weight = (logits - highest).exp()
    rows, size = weight.shape
    if size % BLOCK:
        weight = torch.nn.functional.pad(weight, (0, BLOCK - size % BLOCK))
    blocks = weight.view(rows, -1, BLOCK)
    reached = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    total = reached[:, -1:]
    goal = uniform[:, None].to(total) * total
    block = _first_above(reached, goal)
    before = torch.where(block > 0, reached.gather(1, (block - 1).clamp(min=0)), 0.0)
    inner = blocks[torch.arange(rows, device=logits.device), block[:, 0]].double().cumsum(-1)
    token = block * BLOCK + _first_above(inner, goal - before)
    return token[:, 0], (highest + total.log().to(highest.dtype))[:, 0]


def _first_above(reached: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """First place where the cumulative sum exceeds the goal; if rounding hides it, the last that adds anything."""
    place = torch.searchsorted(reached, goal.contiguous(), right=True)
    last = torch.searchsorted(reached, reached[:, -1:].contiguous())
    return torch.minimum(place, last)


def _at(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, token[:, None])[:, 0]
