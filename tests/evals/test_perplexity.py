"""Perplexity: against plain transformers, with exact token counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from trueup.errors import DataError
from trueup.evals.perplexity import Document, Surprise, perplexity_figures, surprise, windows
from trueup.models.policy import Policy
from trueup.models.tiny import BOS, tiny_model, tiny_tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog. " * 3, "Grüße, 世界!", "ab", "To be or not to be: " * 10]
DOCUMENTS = [Document(f"d{i}", t) for i, t in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(1, 4, 2), (2, 4, 2), (4, 4, 3), (5, 4, 1), (100, 16, 5), (33, 8, 7)]
)
def test_every_token_but_the_first_is_scored_once_with_its_context(length: int, window: int, stride: int) -> None:
    seen: list[int] = []
    for start, first, end in windows(length, window, stride):
        assert end - start <= window
        assert first - start >= min(first, window - stride)  # context of the first scored token
        seen += range(first, end)
    assert seen == list(range(1, length))


def test_a_window_of_the_whole_text_is_one_window() -> None:
    assert windows(10, 10, 5) == windows(10, 99, 1) == [(0, 1, 10)]
    assert windows(10, 6, 2) == [(0, 1, 6), (2, 6, 8), (4, 8, 10)]
    for stride in (0, 6, 7):
        with pytest.raises(ValueError, match="1 <= stride < window"):
            windows(10, 6, stride)


def plain_nats(ids: list[int], window: int, stride: int) -> tuple[float, int]:
    """The sliding window as transformers' documentation describes it, on the model's own loss, a window at a time."""
    model: Any = tiny_model()
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        labels = torch.tensor([ids[begin:end]])
        labels[:, : max(before - begin, 1)] = -100  # the first token of all has nothing before it
        scored = int((labels != -100).sum())
        if scored:
            with torch.no_grad():
                total += float(model(input_ids=torch.tensor([ids[begin:end]]), labels=labels).loss) * scored
        count, before = count + scored, end
        if end == len(ids):
            break
    return total, count


@pytest.mark.parametrize("layout", ["shared", "rows"])
@pytest.mark.parametrize(("window", "stride"), [(1024, 512), (32, 16), (32, 31), (8, 1)])
def test_plain_transformers_gives_the_same_numbers(layout: str, window: int, stride: int) -> None:
    tokenizer = tiny_tokenizer()
    found = surprise(Policy(tiny_model(), 0, layout), tokenizer, DOCUMENTS, window=window, stride=stride)
    for d, document in enumerate(DOCUMENTS):
        ids = tokenizer(document.text, add_special_tokens=False).input_ids
        nats, count = plain_nats(ids, window, stride)
        assert found.tokens[d] == count == len(document.text.encode()) - 1
        assert found.nats[d] == pytest.approx(nats, rel=1e-5)
    total, tokens = found.nats.sum(), found.tokens.sum()
    per_token, perplexity, _ = perplexity_figures(found)
    assert per_token.mean == pytest.approx(total / tokens)
    assert perplexity.mean == pytest.approx(math.exp(total / tokens))
    assert perplexity.note == f"{tokens} tokens"


def test_a_begin_token_makes_the_first_token_count() -> None:
    tokenizer: Any = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS)]
    )
    found = surprise(Policy(tiny_model(), 0), tokenizer, DOCUMENTS)
    assert found.tokens.tolist() == found.bytes.tolist() == [len(t.encode()) for t in TEXTS]
    nats, _ = plain_nats(tokenizer(TEXTS[0]).input_ids, 1024, 512)
    assert found.nats[0] == pytest.approx(nats, rel=1e-5)


def test_bytes_are_those_of_the_scored_tokens() -> None:
    found = surprise(Policy(tiny_model(), 0), tiny_tokenizer(), [*DOCUMENTS[:1], Document("x", "xyz")])
    assert found.bytes.tolist() == [len(TEXTS[0]) - 1, 2]


def test_a_bigram_model_needs_one_token_of_context() -> None:
    policy = Policy(tiny_model(kind="bigram"), 0)
    wide = surprise(policy, tiny_tokenizer(), DOCUMENTS)
    narrow = surprise(policy, tiny_tokenizer(), DOCUMENTS, window=2, stride=1, micro_tokens=64)
    assert narrow.nats == pytest.approx(wide.nats, rel=1e-5)


def test_figures_by_hand() -> None:
    """Two texts of 10 and 30 tokens with 20 and 30 nats: 50/40 nats a token; 50/(100 ln 2) bits a byte."""
    found = Surprise(np.array([20.0, 30.0]), np.array([10, 30]), np.array([40, 60]), ("a", "b"))
    per_token, perplexity, per_byte = perplexity_figures(found)
    assert per_token.mean == pytest.approx(1.25)
    assert perplexity.mean == pytest.approx(math.exp(1.25))
    assert (perplexity.low, perplexity.high) == pytest.approx((math.exp(per_token.low), math.exp(per_token.high)))
    assert per_byte.mean == pytest.approx(50 / (100 * math.log(2)))
    assert (perplexity.n, perplexity.clusters) == (2, 2)


def test_texts_of_one_source_are_one_cluster() -> None:
    documents = [Document(f"d{i}", TEXTS[0], cluster="book") for i in range(3)]
    figures = perplexity_figures(surprise(Policy(tiny_model(), 0), tiny_tokenizer(), documents))
    assert all(math.isnan(f.low) and "one document: the interval is unknown" in f.note for f in figures)


def test_a_text_with_nothing_to_score() -> None:
    policy = Policy(tiny_model(), 0)
    with pytest.raises(DataError, match="document x: 1 tokens; one to score and one before it"):
        surprise(policy, tiny_tokenizer(), [Document("x", "a")])
    with pytest.raises(DataError, match="document y: 0 tokens"):
        surprise(policy, tiny_tokenizer(), [Document("y", "")])
    with pytest.raises(DataError, match="there is no document"):
        surprise(policy, tiny_tokenizer(), [])
