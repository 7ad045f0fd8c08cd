"""Held-out rows that share no prompt with the training rows, and mixtures of several sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from trueup.data.order import permutation
from trueup.errors import DataError
from trueup.types import Row

RowT = TypeVar("RowT", bound=Row)


def family(row: Row) -> str:
    """What ties rows together: the first user turn (conversations that grew from it are related), else the text."""
    if isinstance(row.prompt, str):
        return (
            row.prompt or json.dumps(getattr(row, "chosen", None) or getattr(row, "completion", ""), default=str)[:200]
        )
    first = next((t for t in row.prompt if t["role"] == "user"), None)
    return json.dumps(first["content"] if first else list(map(dict, row.prompt)), sort_keys=True, default=str)


def split_held_out(rows: Sequence[RowT], fraction: float, seed: int) -> tuple[list[RowT], list[RowT]]:
    """Training and held-out rows; rows of one family go to one side.

    Families are taken in the order of a hash of seed and family until ``fraction`` of the rows is held out, so adding
    rows moves few others. At least one row stays on the training side.
    """
    if fraction <= 0 or len(rows) < 2:
        return list(rows), []
    names = [family(r) for r in rows]
    rank = {n: hashlib.sha256(f"{seed}|{n}".encode("utf-8", "surrogatepass")).digest() for n in set(names)}
    held: set[str] = set()
    count, wanted = 0, max(1, round(fraction * len(rows)))
    sizes: dict[str, int] = {}
    for n in names:
        sizes[n] = sizes.get(n, 0) + 1
    for n in sorted(rank, key=lambda n: rank[n]):
        if count >= wanted or count + sizes[n] >= len(rows):
            break
        held.add(n)
        count += sizes[n]
    train = [r for r, n in zip(rows, names, strict=True) if n not in held]
    return train, [r for r, n in zip(rows, names, strict=True) if n in held]


def shared_prompts(train: Sequence[Row], held_out: Sequence[Row]) -> list[str]:
    """Ids of held-out rows whose family also occurs in training."""
    known = {family(r) for r in train}
    return [r.id for r in held_out if family(r) in known]


def mix(sources: Mapping[str, Sequence[RowT]], weights: Mapping[str, float], seed: int) -> list[RowT]:
    """Rows of several sources in the given proportions, without repeating any.

    The total is the largest for which every source has enough rows.

    Raises:
        DataError: a weight without a source, or not above 0.
    """
    if set(weights) != set(sources) or any(w <= 0 for w in weights.values()):
        raise DataError(
            f"mix: every source needs one weight above 0; sources {sorted(sources)}, weights {dict(weights)}"
        )
    total = sum(weights.values())
    share = {name: w / total for name, w in weights.items()}
    size = min(len(sources[name]) / share[name] for name in sources)
    mixed: list[RowT] = []
    for k, name in enumerate(sorted(sources)):
        order = permutation(len(sources[name]), seed, k)
        mixed += [sources[name][i] for i in order[: int(size * share[name])]]
    return [mixed[i] for i in np.random.Generator(np.random.Philox(key=[seed, len(sources)])).permutation(len(mixed))]
