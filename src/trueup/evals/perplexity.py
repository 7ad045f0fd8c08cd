"""Perplexity on held-out text, with every token counted once and none without its context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from trueup.data.order import micro_batches
from trueup.data.render import Renderer
from trueup.errors import DataError
from trueup.evals.figure import Figure, mean_figure
from trueup.models.layout import Branches
from trueup.models.policy import Policy
from trueup.types import Prompt


@dataclass(frozen=True, slots=True)
class Document:
    """A held-out text; ``cluster`` names what it came from, where several came from one source (None: its id)."""

    id: str
    text: str
    cluster: str | None = None


@dataclass(frozen=True, slots=True)
class Surprise:
    """How surprised the model is by each document, ``[D]`` each.

    Attributes:
        nats: −Σ log p over the scored tokens.
        tokens: how many are scored: all, but the first where nothing (no begin token) stands before it.
        bytes: of the text that those tokens cover, UTF-8.
        clusters: names.
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    clusters: tuple[str, ...]


def windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """Stretches ``(start, first scored, end)`` of a text of ``length`` tokens that score each token but the first once.

    Every later stretch begins ``stride`` tokens after the one before it, so that a scored token has all tokens before
    it, or ``window − stride`` at least, as context.

    Raises:
        ValueError: not 1 <= stride < window.
    """
    if not 1 <= stride < window:
        raise ValueError(f"perplexity needs 1 <= stride < window, got stride {stride} and window {window}")
    found: list[tuple[int, int, int]] = []
    start, scored = 0, 1
    while scored < length:
        end = min(start + window, length)
        found.append((start, scored, end))
        start, scored = start + stride, end
    return found


@torch.no_grad()
def surprise(
    policy: Policy,
    tokenizer: Any,
    documents: Sequence[Document],
    *,
    window: int = 1024,
    stride: int = 512,
    micro_tokens: int = 4096,
) -> Surprise:
    """Scores documents with the model, in sliding windows.

    Args:
        policy: the model.
        tokenizer: its tokenizer, fast; a begin token is put first if it puts one.
        documents: held-out texts, raw: no chat template is applied.
        window: tokens that the model sees at once; no more than its context.
        stride: tokens from one window to the next; smaller is slower and less surprised.
        micro_tokens: tokens at once.

    Raises:
        DataError: no documents, or one with no token to score.
        ValueError: not 1 <= stride < window.
    """
    if not documents:
        raise DataError("perplexity: there is no document")
    renderer = Renderer(tokenizer, chat="plain", max_length=2**31)
    nats, tokens = np.zeros(len(documents)), np.zeros(len(documents), dtype=int)
    sizes = np.zeros(len(documents), dtype=int)
    pieces: list[tuple[int, Branches]] = []
    for d, document in enumerate(documents):
        ids, sizes[d] = _ids(renderer, document)
        for start, first, end in windows(len(ids), window, stride):
            mask = np.arange(start, end) >= first
            pieces.append((d, Branches(ids[:0], (ids[start:end],), (mask,))))
    for part in micro_batches([len(p.branches[0]) for _, p in pieces], None, micro_tokens):
        figures = policy.sequences(policy.layout([pieces[i][1] for i in part]))
        for i, value, count in zip(part, figures.logprob.tolist(), figures.lengths.tolist(), strict=True):
            nats[pieces[i][0]] -= value
            tokens[pieces[i][0]] += count
    return Surprise(nats, tokens, sizes, tuple(d.cluster or d.id for d in documents))


def _ids(renderer: Renderer, document: Document) -> tuple[np.ndarray, int]:
    """Token ids, and the number of bytes that the scored ones cover."""
    encoded = renderer.tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True)
    ids = renderer.prompt(Prompt(id=document.id, origin=document.id, prompt=document.text))
    if len(ids) < 2:
        raise DataError(f"document {document.id}: {len(ids)} tokens; one to score and one before it are needed")
    begun = len(ids) > len(encoded.input_ids)  # a begin token was put first
    unscored = 0 if begun else int(encoded.offset_mapping[0][1])
    return ids, len(document.text[unscored:].encode())


def perplexity_figures(found: Surprise, *, seed: int = 0) -> tuple[Figure, Figure, Figure]:
    """``nats_per_token``, ``perplexity`` (its exponential) and ``bits_per_byte``.

    All are means over tokens (bytes), not over documents; the interval resamples documents. Perplexities compare only
    between models with one tokenizer; bits per byte between any.
    """
    note = f"{int(found.tokens.sum())} tokens"
    if len(set(found.clusters)) == 1:
        note += "; one document: the interval is unknown"
    per_token = mean_figure(
        "nats_per_token", found.nats / found.tokens, found.clusters, weights=found.tokens.astype(float),
        bounds=(0.0, math.inf), note=note, seed=seed,
    )  # fmt: skip
    per_byte = mean_figure(
        "bits_per_byte", found.nats / found.bytes / math.log(2), found.clusters, weights=found.bytes.astype(float),
        bounds=(0.0, math.inf), note=note, seed=seed,
    )  # fmt: skip
    perplexity = replace(
        per_token,
        name="perplexity",
        mean=math.exp(per_token.mean),
        low=math.exp(per_token.low),
        high=math.exp(per_token.high),
        smallest_difference=math.exp(per_token.mean) * math.expm1(per_token.smallest_difference),
    )
    return per_token, perplexity, per_byte
