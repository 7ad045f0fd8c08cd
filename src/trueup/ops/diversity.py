"""How varied a set of texts is."""

from __future__ import annotations

from collections.abc import Sequence


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n: different word n-grams over all word n-grams of the texts (Li et al. 2016, arXiv 1510.03055).

    It falls with the number and length of texts: compare sets of equal size and length. 0 if no text has n words.
    """
    grams = [tuple(words[i : i + n]) for t in texts for words in [t.split()] for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated_answers(texts: Sequence[str]) -> float:
    """Share of texts that equal, blanks and case aside, another one of the set."""
    plain = [" ".join(t.split()).casefold() for t in texts]
    return sum(plain.count(t) > 1 for t in plain) / len(plain) if plain else 0.0
