"""The sampler: exact log-probabilities, the model's own greedy answers, and draws that nothing around them changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from trueup.errors import DataError
from trueup.models.policy import Policy
from trueup.models.sample import LocalSampler, PromptIds
from trueup.models.sampling import Sample, Sampling, answer_seed
from trueup.models.tiny import tiny_model, tiny_tokenizer
from trueup.types import Prompt

KINDS: list[Any] = ["llama", "qwen2", "gpt2", "mistral", "gemma2"]


def sampler(kind: Any = "llama", slots: int = 64, dtype: torch.dtype = torch.float64) -> LocalSampler:
    policy = Policy(tiny_model(kind=kind).to(dtype=dtype), pad_id=0)  # pyright: ignore[reportCallIssue]
    return LocalSampler(policy, tiny_tokenizer(), slots=slots, identity="tiny")


def prompts(count: int, seed: int = 0) -> list[PromptIds]:
    random = np.random.default_rng(seed)
    return [
        PromptIds(id=f"p{i}", ids=random.integers(4, 260, random.integers(1, 20)).astype(np.int32))
        for i in range(count)
    ]


def by_place(samples: Any) -> dict[tuple[str, int], Sample]:
    found = list(samples)
    places = {(s.prompt, s.index): s for s in found}
    assert len(places) == len(found)
    return places


def same(a: dict[tuple[str, int], Sample], b: dict[tuple[str, int], Sample]) -> bool:
    return a.keys() == b.keys() and all(
        np.array_equal(a[k].ids, b[k].ids) and a[k].text == b[k].text and a[k].finish == b[k].finish  # type: ignore[arg-type]
        for k in a
    )


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_a_plain_forward_pass(kind: Any) -> None:
    ours = sampler(kind)
    near = 1e-9 if ours.policy.shared else 1e-5  # some models compute a softmax in fp32 whatever their weights
    for settings in (Sampling(n=2, max_new_tokens=12), Sampling(n=2, max_new_tokens=12, temperature=0.7, top_k=20)):
        given = prompts(5)
        for sample in ours.sample_ids(given, settings):
            assert sample.ids is not None and sample.logprobs is not None and sample.model_logprobs is not None
            prompt = next(p for p in given if p.id == sample.prompt).ids
            whole = torch.from_numpy(np.concatenate([prompt, sample.ids]).astype(np.int64))[None]
            with torch.no_grad():
                logits = ours.policy.inner(whole).logits[0, len(prompt) - 1 : -1]
            rows = torch.arange(len(sample.ids))
            plain = logits.log_softmax(-1)[rows, sample.ids.astype(np.int64)]
            assert sample.model_logprobs == pytest.approx(plain.numpy(), abs=near)
            if settings.temperature != 1:
                kept = (logits / 0.7).topk(20, -1)
                wanted = (logits / 0.7)[rows, sample.ids.astype(np.int64)] - kept.values.logsumexp(-1)
                assert sample.logprobs == pytest.approx(wanted.numpy(), abs=near)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_transformers_greedy(kind: Any) -> None:
    ours = sampler(kind)
    given = prompts(8)
    found = by_place(ours.sample_ids(given, Sampling(temperature=0, max_new_tokens=16)))
    for prompt in given:
        ids = torch.from_numpy(prompt.ids.astype(np.int64))[None]
        model: Any = ours.policy.inner
        plain = tiny_model(kind=kind).double()
        whole = plain.generate(
            ids, do_sample=False, max_new_tokens=16, pad_token_id=0, eos_token_id=model.config.eos_token_id
        )  # type: ignore[operator]
        assert found[prompt.id, 0].ids.tolist() == whole[0, ids.shape[1] :].tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_neither_batch_nor_order_nor_company_changes_an_answer(kind: Any) -> None:
    settings = Sampling(n=3, max_new_tokens=24, seed=5)
    given = prompts(9)
    wanted = by_place(sampler(kind).sample_ids(given, settings))
    assert len(wanted) == 27
    for slots in (1, 4, 27):
        assert same(wanted, by_place(sampler(kind, slots).sample_ids(given[::-1], settings)))
    alone = by_place(sampler(kind).sample_ids(given[4:5], settings))
    assert same(alone, {k: v for k, v in wanted.items() if k[0] == "p4"})
    third = by_place(sampler(kind).sample_ids(given, settings, indices=lambda _: [2]))
    assert same(third, {k: v for k, v in wanted.items() if k[1] == 2})


def test_seeds_prompts_and_indices_draw_differently() -> None:
    seeds = {answer_seed(s, p, k) for s in range(4) for p in ("a", "b", b"a1") for k in range(4)}
    assert len(seeds) == 48
    ours = sampler()
    texts = {
        s.text for seed in range(3) for s in ours.sample_ids(prompts(1), Sampling(n=4, seed=seed, max_new_tokens=20))
    }
    assert len(texts) == 12


def test_the_next_token_has_the_models_distribution() -> None:
    """20,000 first tokens of one prompt by the whole road: prompt, slots, draw."""
    ours = sampler(slots=4000, dtype=torch.float32)
    prompt = prompts(1)
    n = 20_000
    drawn = np.array([s.ids[0] for s in ours.sample_ids(prompt, Sampling(n=n, max_new_tokens=1))])  # type: ignore[index]
    with torch.no_grad():
        logits = ours.policy.inner(torch.from_numpy(prompt[0].ids.astype(np.int64))[None]).logits[0, -1]
    p = logits.double().softmax(-1).numpy()
    seen, wanted = np.bincount(drawn, minlength=len(p)), p * n
    likely = wanted >= 5
    rest = [seen[~likely].sum()], [wanted[~likely].sum()]
    assert rest[1][0] > 5
    assert chisquare(np.append(seen[likely], rest[0]), np.append(wanted[likely], rest[1])).pvalue > 0.001


def test_stop_strings_and_tokens_end_an_answer_and_are_no_part_of_its_text() -> None:
    ours = sampler()
    free = by_place(ours.sample_ids(prompts(6), Sampling(max_new_tokens=40, seed=1)))
    text = next(s.text for s in free.values() if (len(s.text) > 8 and s.text.isprintable()) or len(s.text) > 12)
    word = text[5:7]
    ended = by_place(ours.sample_ids(prompts(6), Sampling(max_new_tokens=40, seed=1, stop=(word,))))
    for place, sample in ended.items():
        if word in free[place].text:
            assert sample.finish == "stop"
            assert sample.text == free[place].text[: free[place].text.index(word)]
        else:
            assert sample.text == free[place].text
    token = int(free["p0", 0].ids[2])  # type: ignore[index]
    cut = by_place(ours.sample_ids(prompts(6), Sampling(max_new_tokens=40, seed=1, stop_ids=(token,))))["p0", 0]
    assert cut.finish == "stop"
    assert cut.ids[-1] == token  # type: ignore[index]


def test_end_of_sequence_ends_and_is_kept_in_the_ids() -> None:
    ours = sampler()
    samples = list(ours.sample_ids(prompts(64), Sampling(max_new_tokens=200, seed=2)))
    ended = [s for s in samples if s.finish == "stop"]
    assert ended
    for sample in samples:
        ids = sample.ids.tolist()  # type: ignore[union-attr]
        assert (2 in ids) == (sample.finish == "stop")
        assert 2 not in ids[:-1]
        assert len(ids) == 200 or sample.finish == "stop"
    assert ours.speed.answers == 64
    assert ours.speed.truncated_share == pytest.approx(1 - len(ended) / 64)
    assert ours.speed.tokens == sum(len(s.ids) for s in samples)  # type: ignore[arg-type]


def test_prompts_that_cannot_be_sampled() -> None:
    ours = sampler()
    room = ours.policy.inner.config.max_position_embeddings
    long = PromptIds(id="long", ids=np.full(room, 5, dtype=np.int32))
    with pytest.raises(DataError, match=f"long: prompt: {room} tokens and 8 new ones are more than .* {room}"):
        ours.sample_ids([long], Sampling(max_new_tokens=8))
    with pytest.raises(DataError, match="no prompt"):
        ours.sample_ids([], Sampling())
    with pytest.raises(DataError, match="empty"):
        ours.sample_ids([PromptIds(id="e", ids=np.zeros(0, dtype=np.int32))], Sampling())


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"min_p": 1}, {"n": 0}, {"max_new_tokens": 0}])
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"sampling.{next(iter(wrong))}"):
        Sampling(**wrong)


def test_rows_are_rendered_with_the_chat_template() -> None:
    ours = sampler()
    row = Prompt(id="r", origin="f:1", prompt=({"role": "user", "content": "Hi"},))
    (sample,) = ours.sample([row], Sampling(max_new_tokens=4, temperature=0))
    ids = np.array(ours.tokenizer("<bos>user\nHi<eos>\n<bos>assistant\n", add_special_tokens=False).input_ids)
    (plain,) = ours.sample_ids([PromptIds(id="r", ids=ids.astype(np.int32))], Sampling(max_new_tokens=4, temperature=0))
    assert np.array_equal(sample.ids, plain.ids)  # type: ignore[arg-type]
    assert (sample.prompt, sample.policy) == ("r", "tiny")
