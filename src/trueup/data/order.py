"""Which rows a step sees: pure functions of seed, epoch and step, so that skipping ahead touches no random state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``n`` rows, ``[n]``; the same for the same seed and epoch everywhere."""
    return _generator(seed, epoch).permutation(n)


def balanced_permutation(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """A permutation in which both classes are spread evenly, so that every stretch holds them in proportion.

    Args:
        labels: ``[n]`` bool.
        seed: of the order within each class.
        epoch: from 0.
    """
    order = permutation(len(labels), seed, epoch)
    places = np.empty(len(labels))
    for label in (True, False):
        own = order[labels[order] == label]
        places[own] = (np.arange(len(own)) + 0.5) / max(len(own), 1)
    return np.argsort(places, kind="stable")


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int, labels: bytes | None) -> np.ndarray:
    if labels is None:
        return permutation(n, seed, epoch)
    return balanced_permutation(np.frombuffer(labels, dtype=bool), seed, epoch)


def batch_at(n: int, size: int, seed: int, step: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Rows of the global batch of a step (from 0), ``[size]``; epochs follow each other without a gap.

    Args:
        n: number of rows.
        size: of the batch.
        seed: of the order.
        step: from 0.
        labels: ``[n]`` bool; given, both classes are spread evenly.
    """
    key = None if labels is None else labels.astype(bool).tobytes()
    places = np.arange(step * size, (step + 1) * size)
    return np.array([_order(n, seed, int(at // n), key)[at % n] for at in places])


def mismatch(prompts: Sequence[bytes], seed: int, step: int) -> list[int]:
    """For each row of a batch, another row whose completion it is given; −1 if no row has another prompt.

    Rows are put in an order drawn for this step; each takes the next one with a different prompt.
    """
    order = _generator(seed, step).permutation(len(prompts))
    partner = [-1] * len(prompts)
    for place, row in enumerate(order):
        for offset in range(1, len(order)):
            other = int(order[(place + offset) % len(order)])
            if prompts[other] != prompts[row]:
                partner[row] = other
                break
    return partner


def micro_batches(lengths: Sequence[int], rows: int | None, tokens: int | None) -> list[list[int]]:
    """Cuts a batch into micro-batches, longest rows first.

    Args:
        lengths: tokens of each row.
        rows: rows a micro-batch may hold; None: any number.
        tokens: tokens it may hold; None: any number. A longer row is alone.

    Returns:
        Indices into the batch, each once.
    """
    parts: list[list[int]] = []
    held = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        full = not parts or (rows is not None and len(parts[-1]) >= rows)
        if full or (tokens is not None and held + lengths[i] > tokens):
            parts.append([])
            held = 0
        parts[-1].append(i)
        held += lengths[i]
    return parts
