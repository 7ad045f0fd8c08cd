"""Small exact computations and the coverage of the intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trueup.ops.kl import k1, k2, k3
from trueup.ops.logprobs import log1mexp, token_logprobs
from trueup.ops.stats import bootstrap_mean, paired_test, wilson


def test_token_logprobs_by_hand() -> None:
    logits = torch.log(torch.tensor([[[1.0, 3.0], [2.0, 2.0]]], dtype=torch.float64))
    got = token_logprobs(logits, torch.tensor([[1, 0]]))
    assert got.tolist()[0] == pytest.approx([math.log(0.75), math.log(0.5)])
    assert token_logprobs(logits.bfloat16(), torch.tensor([[1, 0]])).dtype == torch.float32


@pytest.mark.parametrize("x", [-1e-12, -1e-6, -0.1, -0.69, -0.7, -5.0, -40.0, -700.0])
def test_log1mexp_in_double(x: float) -> None:
    want = math.log(-math.expm1(x)) if x > -1 else math.log1p(-math.exp(x))
    value = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    got = log1mexp(value)
    assert got.item() == pytest.approx(want, rel=1e-12)
    got.sum().backward()
    assert value.grad is not None
    assert value.grad.item() == pytest.approx(-math.exp(x) / -math.expm1(x), rel=1e-9)


def test_log1mexp_is_finite_at_probability_one() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert torch.isfinite(log1mexp(torch.zeros(3, dtype=dtype))).all()


def test_kl_estimators_on_an_exact_expectation() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    u = (p / q).log()
    kl = float((p * u).sum())
    assert float((p * k1(u)).sum()) == pytest.approx(kl)
    assert float((p * k3(u)).sum()) == pytest.approx(kl)
    assert bool((k3(u) >= 0).all())
    assert k2(u).tolist() == pytest.approx((u * u / 2).tolist())


def test_wilson_against_its_formula() -> None:
    got = wilson(8, 10)
    assert got.mean == 0.8
    assert (got.low, got.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 5).low == 0.0 and wilson(5, 5).high == 1.0
    for bad in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="wilson"):
            wilson(*bad)


@pytest.mark.parametrize(("n", "per_cluster"), [(50, 1), (200, 4)])
def test_bootstrap_interval_covers_the_truth(n: int, per_cluster: int) -> None:
    """400 simulations: the count of misses of a true 95 % interval is within [6, 36] with probability 0.9996."""
    rng = np.random.default_rng(0)
    misses = 0
    for trial in range(400):
        common = np.repeat(rng.normal(size=n // per_cluster), per_cluster)
        values = ((common + rng.normal(size=n)) > 0).astype(float)  # truth 0.5
        clusters = [str(i // per_cluster) for i in range(n)]
        low, high = bootstrap_mean(values, clusters=clusters, seed=trial, draws=300)[1:]
        misses += not low <= 0.5 <= high
    assert 6 <= misses <= 36


def test_bootstrap_widens_with_clusters_and_weighs_rows() -> None:
    values = np.repeat([0.0, 1.0], 20)
    alone = bootstrap_mean(values)
    together = bootstrap_mean(values, clusters=[str(i // 10) for i in range(40)])
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert bootstrap_mean(np.array([1.0, 3.0]), weights=np.array([3.0, 1.0])).mean == 1.5
    one = bootstrap_mean(np.array([1.0, 2.0]), clusters=["a", "a"])
    assert one.mean == 1.5 and math.isnan(one.low)
    same = bootstrap_mean(np.ones(5))
    assert (same.low, same.high) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean(np.array([]))


def test_paired_test_counts_better_and_worse() -> None:
    result = paired_test(np.array([1, 1, 1, 1, 1, 0.0]), np.array([0, 0, 0, 0, 0, 0.0]))
    assert (result.better, result.worse) == (5, 0)
    assert result.p_value == pytest.approx(2 * 0.5**5)
    assert result.difference.mean == pytest.approx(5 / 6)
    assert paired_test(np.ones(4), np.ones(4)).p_value == 1.0
