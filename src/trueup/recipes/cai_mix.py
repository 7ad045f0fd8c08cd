"""What people wrote, mixed in: conversations beside revisions, comparisons beside labels (Bai et al. 2022, 3 and 4)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

from trueup.data.convert import wrapped
from trueup.data.read import read_rows
from trueup.recipes.answers import shown
from trueup.runs.encode import plain
from trueup.types import Comparison, Example


def conversations_of(path: str) -> list[dict[str, Any]]:
    """Conversations of a file of any format that holds completions, as rows with ``messages``.

    Raises:
        DataError: it holds none, or a row cannot be used.
    """
    rows = [cast(Example, wrapped(row)) for row in read_rows(path, wanted=Example).rows]
    return [{"messages": plain([*shown(r.prompt), *shown(r.completion)])} for r in rows]


def comparisons_of(path: str) -> list[dict[str, Any]]:
    """Pairs of a file of any format that holds preferences, as rows with ``prompt``, ``chosen`` and ``rejected``.

    Raises:
        DataError: it holds none, or a row cannot be used.
    """
    rows = [cast(Comparison, wrapped(row)) for row in read_rows(path, wanted=Comparison).rows]
    return [
        {
            **{name: plain(shown(getattr(r, name))) for name in ("prompt", "chosen", "rejected")},
            **({} if r.preference is None else {"preference": r.preference}),
        }
        for r in rows
    ]


def mixed_in(
    rows: Sequence[Mapping[str, Any]], ratio: float, made: int, seed: int, source: str
) -> list[dict[str, Any]]:
    """``ratio`` rows for each of ``made``, drawn without repeating, and never more than there are; marked as human."""
    drawn = random.Random(seed).sample(list(rows), min(len(rows), round(ratio * made)))
    return [{"id": f"{source}/{i}", **row, "provenance": {"source": source}} for i, row in enumerate(drawn)]
