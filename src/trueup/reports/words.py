"""Which words two texts share: runs of words that stand in both, or in one only."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MOST_CHARACTERS = 4000
_PIECES = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text: ``same`` as in the other text, or ``other``."""

    kind: Literal["same", "other"]
    text: str


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text, or its beginning with a word on how much is left out; C0 controls are shown as symbols."""
    shown = text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in shown)


def differences(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts cut into pieces; ``other`` pieces of the first are gone in the second, those of the second are new.

    A single word that stands alone between changes belongs to them: marks that start anew at every "the" tell nothing.
    Joined again, the pieces of each side are that text.
    """
    old, new = _PIECES.findall(before), _PIECES.findall(after)
    codes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    left: list[Piece] = []
    right: list[Piece] = []
    for index, (tag, a, b, c, d) in enumerate(codes):
        inside = 0 < index < len(codes) - 1
        few = sum(p.strip().isalnum() for p in old[a:b]) < 2
        kind: Literal["same", "other"] = "same" if tag == "equal" and not (inside and few) else "other"
        _add(left, kind, "".join(old[a:b]))
        _add(right, kind, "".join(new[c:d]))
    return left, right


def share_in_common(pieces: Sequence[Piece]) -> float:
    """Characters that stand in both texts over all of this one, 0 to 1; 1 for an empty text."""
    total = sum(len(p.text) for p in pieces)
    return sum(len(p.text) for p in pieces if p.kind == "same") / total if total else 1.0


def _add(pieces: list[Piece], kind: Literal["same", "other"], text: str) -> None:
    if not text:
        return
    if pieces and pieces[-1].kind == kind:
        pieces[-1] = Piece(kind, pieces[-1].text + text)
    else:
        pieces.append(Piece(kind, text))
