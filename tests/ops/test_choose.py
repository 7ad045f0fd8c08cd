"""Drawing a token: exact filters, exact log-probabilities, and the distribution that comes out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from trueup.ops.choose import choose, filtered

P = [0.4, 0.3, 0.15, 0.1, 0.05]
LOGITS = torch.tensor([P], dtype=torch.float64).log()


def kept(**filters: Any) -> list[bool]:
    return torch.isfinite(filtered(LOGITS, **filters))[0].tolist()


@pytest.mark.parametrize(
    ("filters", "count"),
    [({"top_k": 2}, 2), ({"top_k": 9}, 5), ({"top_p": 0.399}, 1), ({"top_p": 0.401}, 2), ({"top_p": 0.699}, 2),
     ({"top_p": 0.949}, 4), ({"min_p": 0.3}, 3), ({"min_p": 0.76}, 1), ({"top_k": 3, "top_p": 0.5}, 2),
     ({"top_k": 3, "min_p": 0.5}, 2)],
)  # fmt: skip
def test_filters_by_hand(filters: dict[str, Any], count: int) -> None:
    """``top_k`` 3 leaves 0.4, 0.3, 0.15 of 0.85: the first holds 0.47, the first two 0.82."""
    assert kept(**filters) == [True] * count + [False] * (5 - count)


def test_top_p_beyond_the_candidates_sorts_everything() -> None:
    logits = torch.zeros(1, 5000, dtype=torch.float64) - torch.arange(5000) * 1e-6
    assert int(torch.isfinite(filtered(logits, top_p=0.5)).sum()) == pytest.approx(2500, abs=10)


def test_inversion_takes_the_token_the_number_falls_into() -> None:
    numbers = torch.tensor([0.0, 0.39, 0.41, 0.69, 0.71, 0.9499, 0.951, 1 - 2**-53], dtype=torch.float64)
    got = choose(LOGITS.expand(8, -1), numbers)
    assert got.token.tolist() == [0, 0, 1, 1, 2, 3, 4, 4]
    assert got.logprob.tolist() == pytest.approx([math.log(P[i]) for i in got.token])
    assert torch.equal(got.logprob, got.model_logprob)


@pytest.mark.parametrize("size", [1000, 1024])  # the second fills its last block
def test_a_vocabulary_of_many_blocks(size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(64, size, generator=generator) * 3
    numbers = torch.rand(64, generator=generator, dtype=torch.float64)
    reached = logits.double().softmax(-1).cumsum(-1)
    assert choose(logits, numbers).token.tolist() == (reached < numbers[:, None]).sum(-1).tolist()


def test_never_a_token_without_probability() -> None:
    logits = torch.full((3, 600), -torch.inf)
    logits[:, 255] = logits[:, 256] = 0.0
    numbers = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert choose(logits, numbers).token.tolist() == [255, 256, 256]


def test_greedy() -> None:
    got = choose(LOGITS, torch.tensor([0.99], dtype=torch.float64), temperature=0)
    assert (got.token.item(), got.logprob.item()) == (0, 0.0)
    assert got.model_logprob.item() == pytest.approx(math.log(0.4))


def test_logprob_is_of_what_was_drawn_from() -> None:
    got = choose(LOGITS, torch.tensor([0.9], dtype=torch.float64), temperature=0.5, top_k=2)
    assert got.token.item() == 1
    assert got.logprob.item() == pytest.approx(math.log(0.09 / 0.25))
    assert got.model_logprob.item() == pytest.approx(math.log(0.3))


SETTINGS: list[dict[str, Any]] = [
    {}, {"temperature": 0.7}, {"temperature": 1.5}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1},
    {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.02},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_twenty_thousand_draws_have_the_exact_distribution(settings: dict[str, Any]) -> None:
    """Chi-square against probabilities computed apart, in numpy, by the definitions."""
    logits = torch.randn(300, generator=torch.Generator().manual_seed(2)) * 2
    n = 20_000
    numbers = torch.from_numpy(np.random.default_rng(3).random(n))
    drawn = choose(logits.expand(n, -1), numbers, **settings).token.numpy()
    p = by_definition(logits.double().numpy(), **settings)
    counts = np.bincount(drawn, minlength=300)
    assert not counts[p == 0].any()
    likely = p * n >= 5
    seen = np.append(counts[likely], counts[~likely].sum())
    wanted = np.append(p[likely], p[~likely].sum()) * n
    if wanted[-1] < 5:  # fold a last cell that is too small for the test into its neighbour
        seen, wanted = np.append(seen[:-2], seen[-2:].sum()), np.append(wanted[:-2], wanted[-2:].sum())
    assert chisquare(seen, wanted).pvalue > 0.001


def by_definition(
    logits: np.ndarray, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    p = np.exp(logits / temperature)
    p /= p.sum()
    order = np.argsort(-p)
    if top_k:
        p[order[top_k:]] = 0
        p /= p.sum()
    if top_p < 1:
        held = np.cumsum(p[order])
        p[order[np.searchsorted(held, top_p) + 1 :]] = 0
        p /= p.sum()
    if min_p:
        p[p < min_p * p.max()] = 0
    return p / p.sum()
