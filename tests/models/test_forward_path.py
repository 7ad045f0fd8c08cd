"""The same numbers by every path: shared prompts, padded rows, either padding side, chunked head, full logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trueup.errors import ModelError
from trueup.models import attention
from trueup.models.head import Head, token_figures
from trueup.models.layout import Branches, rows_layout, shared_layout
from trueup.models.policy import Policy, check_layouts

VOCAB = 97


def small_llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).double().eval()


def random_groups(seed: int, count: int = 5, longest: int = 30) -> list[Branches]:
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        prefix = rng.integers(0, VOCAB, rng.integers(1, longest))
        branches, masks = [], []
        for _ in range(2):
            length = int(rng.integers(1, longest))
            mask = rng.random(length) < 0.7
            mask[-1] = True
            branches.append(rng.integers(0, VOCAB, length))
            masks.append(mask)
        groups.append(Branches(prefix, tuple(branches), tuple(masks)))
    return groups


def expected_sums(model: LlamaForCausalLM, groups: list[Branches]) -> torch.Tensor:
    """Independent computation: one sequence at a time, no padding, full logits."""
    sums = []
    for g in groups:
        for branch, mask in zip(g.branches, g.masks, strict=True):
            ids = torch.from_numpy(np.concatenate([g.prefix, branch]))
            trained = np.concatenate([np.zeros(len(g.prefix), dtype=bool), mask])
            logp = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            sums.append(sum(logp[t - 1, ids[t]] for t in np.flatnonzero(trained)))
    return torch.stack(sums)


@pytest.mark.parametrize("seed", range(3))
def test_every_layout_gives_the_log_probabilities_of_single_sequences(seed: int) -> None:
    groups = random_groups(seed)
    want = expected_sums(small_llama(), groups).detach()
    policy = Policy(small_llama(), pad_id=0)
    assert policy.shared
    layouts = [
        shared_layout(groups),
        rows_layout(groups, 0),
        rows_layout(groups, 5, left=True),
        rows_layout(groups, 7, extra=13),
    ]
    for layout in layouts:
        torch.testing.assert_close(policy.sequences(layout).logprob.detach(), want, rtol=0, atol=1e-9)


def test_every_layout_gives_the_same_gradients() -> None:
    groups = random_groups(1)
    gradients = []
    for build in (shared_layout, lambda g: rows_layout(g, 3), lambda g: rows_layout(g, 3, left=True, extra=4)):
        policy = Policy(small_llama(), pad_id=0)
        sums = policy.sequences(build(groups)).logprob
        (sums * torch.linspace(-1, 1, len(sums), dtype=torch.float64)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.model.parameters()]))
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() / gradients[0].norm() < 1e-6  # the model norms in fp32


def test_gradients_equal_those_of_full_logits() -> None:
    groups = random_groups(2, count=3)
    plain = small_llama()
    weights = torch.linspace(-1, 1, 6, dtype=torch.float64)
    (expected_sums(plain, groups) * weights).sum().backward()
    policy = Policy(small_llama(), pad_id=0)
    (policy.sequences(shared_layout(groups)).logprob * weights).sum().backward()
    for (name, a), b in zip(plain.named_parameters(), policy.model.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 1e-6 * a.grad.norm(), name


def test_queries_in_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = random_groups(3)
    policy = Policy(small_llama(), pad_id=0)
    whole = policy.sequences(shared_layout(groups)).logprob
    monkeypatch.setattr(attention, "BLOCK", 7)
    pieces = policy.sequences(shared_layout(groups)).logprob
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-11)
    by_whole = torch.autograd.grad(whole.sum(), list(policy.model.parameters()), retain_graph=True)
    by_pieces = torch.autograd.grad(pieces.sum(), list(policy.model.parameters()))
    for a, b in zip(by_whole, by_pieces, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5)


def test_a_branch_does_not_see_its_sibling_or_other_groups() -> None:
    groups = random_groups(4, count=2)
    policy = Policy(small_llama(), pad_id=0)
    before = policy.sequences(shared_layout(groups)).logprob.detach()
    changed = (groups[0].branches[0], (groups[0].branches[1] + 1) % VOCAB)
    after = policy.sequences(shared_layout([Branches(groups[0].prefix, changed, groups[0].masks), groups[1]])).logprob
    assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])
    assert after[1] != before[1]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_chunked_head_equals_full_logits(softcap: float | None, chunk: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(10, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCAB, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(VOCAB, dtype=torch.float64, requires_grad=True)
    target = torch.randint(VOCAB, (10,))
    upstream = torch.randn(10, dtype=torch.float64)
    z = (hidden @ weight.T + bias) * 1.7
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    logp = z.log_softmax(-1)
    want = logp.gather(1, target[:, None])[:, 0]
    by_hand = torch.autograd.grad(want @ upstream, (hidden, weight, bias))
    figures = token_figures(hidden, Head(weight, bias, 1.7, softcap), target, extras=True, chunk=chunk)
    ours = torch.autograd.grad(figures.logprob @ upstream, (hidden, weight, bias))
    torch.testing.assert_close(figures.logprob, want)
    torch.testing.assert_close(figures.entropy, -(logp.exp() * logp).sum(-1))
    torch.testing.assert_close(figures.collision, logp.exp().square().sum(-1).log())
    for a, b in zip(ours, by_hand, strict=True):
        torch.testing.assert_close(a, b)


def test_first_trained_token_needs_something_before_it() -> None:
    group = Branches(np.array([], dtype=np.int64), (np.array([1, 2]),), (np.array([True, True]),))
    with pytest.raises(ValueError, match="nothing before it"):
        shared_layout([group])


def test_self_check_accepts_a_sound_model_and_refuses_a_wrong_head() -> None:
    groups = random_groups(5)
    policy = Policy(small_llama(), pad_id=0)
    assert check_layouts(policy, groups) < 1e-9
    policy.inner.config.logit_scale = 1.5  # now our head scales and the model's own does not
    with pytest.raises(ModelError, match="output layer"):
        check_layouts(policy, groups)


def test_self_check_refuses_an_attention_that_leaks_between_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(small_llama(), pad_id=0)

    def leaking(sizes, first, end, repeat, dtype):
        return torch.zeros(end - first, end, dtype=dtype).repeat(repeat, 1)

    monkeypatch.setattr(attention, "_mask", leaking)
    with pytest.raises(ModelError, match=r"model\.layout rows"):
        check_layouts(policy, random_groups(6))


def test_generation_is_untouched_by_our_attention() -> None:
    plain = small_llama()
    ours = Policy(small_llama(), pad_id=0).model
    ids = torch.randint(1, VOCAB, (3, 11))
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    want = plain.generate(ids, attention_mask=mask, **settings)
    assert torch.equal(ours.generate(ids, attention_mask=mask, **settings), want)
