"""Entropy with a gradient, and value heads."""

from __future__ import annotations

import pytest
import torch

from trueup.models.head import Head, token_figures
from trueup.models.value import Critic, ValueHead


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradient_of_entropy_and_log_probability_is_autograds(softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (7, 11))
    target = torch.randint(11, (7,), generator=generator)
    factors = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    slopes = []
    for ours in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if ours:
            figures = token_figures(h, Head(w, softcap=softcap), target, extras=True, chunk=3)
            logprob, entropy = figures.logprob, figures.entropy
            assert entropy is not None
        else:
            z = h @ w.t()
            z = z if softcap is None else softcap * torch.tanh(z / softcap)
            p = z.log_softmax(-1)
            logprob, entropy = p.gather(1, target[:, None])[:, 0], -(p.exp() * p).sum(-1)
        slopes.append(torch.autograd.grad((factors[0] * logprob + factors[1] * entropy).sum(), (h, w)))
    for mine, theirs in zip(*slopes, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def test_value_head_starts_at_zero_and_is_linear() -> None:
    head = ValueHead(3)
    states = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    assert head(states).tolist() == [0.0]
    with torch.no_grad():
        head.weight.copy_(torch.tensor([1.0, -1.0, 0.5]))
        head.bias.fill_(0.25)
    assert head(states).tolist() == [0.75]
    assert [name for name, _ in Critic(head).named_parameters()] == ["value_head.weight", "value_head.bias"]
