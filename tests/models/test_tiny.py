"""Tiny models and their tokenizer: made from a seed, far from uniform, one token a byte."""

from __future__ import annotations

import pytest
import torch

from trueup.models.policy import Policy, why_not_shared
from trueup.models.tiny import BOS, EOS, PAD, Kind, tiny_model, tiny_tokenizer

KINDS: tuple[Kind, ...] = ("llama", "mistral", "gemma2", "qwen2", "gpt2", "bigram")
IDS = torch.arange(4, 44)[None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_weights_and_leaves_the_global_state(kind: Kind) -> None:
    state = torch.get_rng_state()
    one, two, other = (tiny_model(kind=kind, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one(IDS).logits, two(IDS).logits)
    assert not torch.allclose(one(IDS).logits, other(IDS).logits, atol=0.1)
    assert one.dtype == torch.float32 and not one.training


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_not_uniform(kind: Kind) -> None:
    logprobs = tiny_model(kind=kind)(IDS).logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
    assert entropy < 5.2  # uniform over 260 is 5.56
    assert logprobs.max() > -4.0


def test_kinds_are_what_they_are_for() -> None:
    assert why_not_shared(tiny_model()) == why_not_shared(tiny_model(kind="qwen2")) == ""
    for kind in ("mistral", "gemma2"):
        assert "sliding" in why_not_shared(tiny_model(kind=kind))
    assert tiny_model(kind="gemma2").config.final_logit_softcapping == 30.0
    assert Policy(tiny_model(kind="bigram"), PAD).inner.config.num_hidden_layers == 0


def test_a_window_really_forgets_and_a_bigram_sees_one_token() -> None:
    ids, other = torch.randint(4, 260, (1, 40)), torch.randint(4, 260, (1, 40))
    other[:, 20:] = ids[:, 20:]  # two layers of a window of 8 reach 14 tokens back
    for kind, same in (("mistral", True), ("llama", False)):
        model = tiny_model(kind=kind)
        assert torch.allclose(model(ids).logits[:, -1], model(other).logits[:, -1], atol=1e-5) is same, kind
    bigram = tiny_model(kind="bigram")
    assert torch.allclose(bigram(ids).logits[:, 20:], bigram(other).logits[:, 20:], atol=1e-6)


def test_sizes() -> None:
    model = tiny_model(vocab=300, hidden=32, layers=3, heads=2)
    assert model(IDS).logits.shape == (1, 40, 300)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.num_attention_heads) == (32, 3, 2)


@pytest.mark.parametrize("text", ["", "plain", "  two  spaces\n", "héé 漢字 🙂", "\x00\x1f\x7f", "a<eos>b", "é" * 50])
def test_text_survives_the_tokenizer_byte_by_byte(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    if "<" not in text:
        assert ids == [4 + byte for byte in text.encode()]


def test_special_tokens_and_template() -> None:
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) == 260
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD, BOS, EOS)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<bos>user\nhi<eos>\n<bos>assistant\nyo<eos>\n"
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)
    ids = tokenizer.apply_chat_template(turns, return_dict=False)
    assert ids.count(BOS) == ids.count(EOS) == 2
