"""Drift from the reference: against plain transformers, and against the true KL of a model that can be summed over."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trueup.evals.kl import drift_figures
from trueup.models.layout import Branches
from trueup.models.policy import Policy
from trueup.models.reference import FrozenCopy
from trueup.models.tiny import tiny_model


def group(prompt: list[int], *answers: list[int]) -> Branches:
    return Branches(
        np.array(prompt, dtype=np.int32),
        tuple(np.array(a, dtype=np.int32) for a in answers),
        tuple(np.ones(len(a), dtype=bool) for a in answers),
    )


GROUPS = [
    group([5, 9, 30], [40, 41, 42], [50]),
    group([7], [8, 9, 10, 11, 12], [100, 90]),
    group([200, 3, 3, 4], [17, 17], [5]),
]
PROMPTS = ["a", "b", "c"]


def plain(seed: int, prompt: np.ndarray, answer: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each answer token, and the entropy of each of their distributions."""
    ids = torch.tensor([[*prompt.tolist(), *answer.tolist()]])
    with torch.no_grad():
        logp = tiny_model(seed=seed)(input_ids=ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    return logp.gather(1, ids[0, len(prompt) :, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("layout", ["shared", "rows"])
@pytest.mark.parametrize("micro_tokens", [1, 4096])
def test_plain_transformers_gives_the_same_numbers(layout: str, micro_tokens: int) -> None:
    policy = Policy(tiny_model(seed=0), 0, layout)
    reference = FrozenCopy(Policy(tiny_model(seed=1), 0, layout), "other")
    found = {f.name: f for f in drift_figures(policy, reference, GROUPS, PROMPTS, micro_tokens=micro_tokens)}
    k1, k3, entropy, tokens = [], [], 0.0, 0
    for g in GROUPS:
        for answer in g.branches:
            own, h = plain(0, g.prefix, answer)
            u = own - plain(1, g.prefix, answer)[0]
            k1.append(float(u.sum()))
            k3.append(float((torch.exp(-u) - 1 + u).sum()))
            entropy, tokens = entropy + float(h.sum()), tokens + len(answer)
    assert found["kl_k1"].mean == pytest.approx(np.mean(k1), abs=1e-3)
    assert found["kl_k3"].mean == pytest.approx(np.mean(k3), rel=1e-3)
    assert found["kl_per_token"].mean == pytest.approx(np.sum(k1) / tokens, abs=1e-3)
    assert found["entropy"].mean == pytest.approx(entropy / tokens, rel=1e-4)
    assert (found["kl_k1"].n, found["kl_k1"].clusters) == (6, 3)


def test_a_model_has_not_gone_from_itself() -> None:
    policy = Policy(tiny_model(), 0)
    found = drift_figures(policy, FrozenCopy(Policy(tiny_model(), 0), "itself"), GROUPS, PROMPTS)
    assert [f.mean for f in found[:3]] == pytest.approx([0, 0, 0], abs=1e-5)


def test_samples_of_the_policy_estimate_the_true_kl() -> None:
    """One token after a bigram model's prompt: KL(π ‖ ρ) is a sum over the vocabulary."""
    models = [tiny_model(kind="bigram"), tiny_model(kind="bigram")]
    with torch.no_grad():
        weight = models[1].get_output_embeddings().weight
        weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        own, other = (m(input_ids=torch.tensor([[77]])).logits[0, -1].double().log_softmax(-1) for m in models)
    true = float((own.exp() * (own - other)).sum())
    drawn = torch.multinomial(own.exp(), 4000, replacement=True, generator=torch.Generator().manual_seed(0)).tolist()
    groups = [group([77], [token]) for token in drawn]
    reference = FrozenCopy(Policy(models[1], 0), "other")
    k1, k3, *_ = drift_figures(Policy(models[0], 0), reference, groups, [str(i) for i in range(4000)])
    assert 0.02 < true < 0.5
    assert k1.low < true < k1.high
    assert k3.low < true < k3.high
    assert "were not drawn" not in k1.note
    assert k3.high - k3.low < 0.8 * (k1.high - k1.low)


def test_answers_of_another_policy_are_noticed() -> None:
    """The reference's own answers are likelier under it than under the policy: k1 estimates minus the other KL."""
    models = [tiny_model(kind="bigram", seed=s) for s in (0, 1)]
    with torch.no_grad():
        other = models[1](input_ids=torch.tensor([[77]])).logits[0, -1].softmax(-1)
    drawn = torch.multinomial(other, 500, replacement=True, generator=torch.Generator().manual_seed(0)).tolist()
    reference = FrozenCopy(Policy(models[1], 0), "other")
    groups = [group([77], [token]) for token in drawn]
    k1 = drift_figures(Policy(models[0], 0), reference, groups, [str(i) for i in range(500)])[0]
    assert k1.high < 0
    assert "were not drawn from this policy" in k1.note


def test_lengths_must_agree() -> None:
    policy = Policy(tiny_model(), 0)
    with pytest.raises(ValueError, match="one prompt a group"):
        drift_figures(policy, FrozenCopy(policy, "x"), GROUPS, PROMPTS[:2])
