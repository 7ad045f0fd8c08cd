"""Answers: the same as transformers' own greedy ones, in whole characters, ended where training taught."""

from __future__ import annotations

import itertools

import pytest
import torch

from trueup.errors import ModelError
from trueup.models.chat import Chat
from trueup.models.tiny import EOS, tiny_model, tiny_tokenizer

HELLO = [{"role": "user", "content": "hello"}]


def greedy(model, tokenizer, count: int) -> str:
    prompt = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=count, do_sample=False, pad_token_id=0)[
        0, prompt.input_ids.shape[1] :
    ]
    return tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma2"])
def test_greedy_answers_are_those_of_transformers(kind) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(kind=kind)
    answer = "".join(Chat(model, tokenizer).reply(HELLO, 16))
    assert answer == greedy(model, tokenizer, 16) and len(answer) > 4


def test_sampling_comes_from_its_seed_alone() -> None:
    chat = Chat(tiny_model(), tiny_tokenizer())
    state = torch.get_rng_state()
    one, two, other = ("".join(chat.reply(HELLO, 10, temperature=1.0, seed=s)) for s in (1, 1, 2))
    assert one == two != other
    assert torch.equal(torch.get_rng_state(), state)


def make_speak(model, text: bytes, prompt_end: int) -> None:
    """A bigram that says exactly these bytes (each at most once) after the prompt's last token, then ends."""
    tokens = [prompt_end, *(4 + byte for byte in text), EOS]
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
        model.lm_head.weight.zero_()
        for place, (now, following) in enumerate(itertools.pairwise(tokens)):
            model.model.embed_tokens.weight[now, place] = 1.0
            model.lm_head.weight[following, place] = 1.0


def test_pieces_are_whole_characters_and_the_end_is_not_shown() -> None:
    model, tokenizer = tiny_model(kind="bigram"), tiny_tokenizer()
    make_speak(model, "aé漢🙂b".encode(), 4 + ord("\n"))
    pieces = list(Chat(model, tokenizer).reply(HELLO, 100))
    assert pieces == ["a", "é", "漢", "🙂", "b"]
    assert list(Chat(model, tokenizer).reply(HELLO, 2)) == ["a", "�"]  # cut inside a character: shown as it is


def test_any_of_the_model_s_own_ends_ends() -> None:
    model, tokenizer = tiny_model(kind="bigram"), tiny_tokenizer()
    make_speak(model, b"abcd", 4 + ord("\n"))
    model.generation_config.eos_token_id = [EOS, 4 + ord("c")]
    assert "".join(Chat(model, tokenizer).reply(HELLO, 100)) == "ab"


def test_bad_conversations() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    with pytest.raises(ModelError, match=r"the conversation has 10.. tokens, the model takes 1024"):
        list(Chat(model, tokenizer).reply([{"role": "user", "content": "a" * 1010}], 5))
    assert len("".join(Chat(model, tokenizer).reply([{"role": "user", "content": "a" * 1000}], 500)).encode()) < 40
    with pytest.raises(ModelError, match="message 1: role and content must be text"):
        list(Chat(model, tokenizer).reply([{"role": "user"}], 5))
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="has no chat template"):
        Chat(model, tokenizer)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ModelError, match="roles must alternate"):
        list(Chat(model, tokenizer).reply(HELLO, 5))
