"""From several scored answers to one prompt to pairs: which two, and why none.

Everything here is a pure function of the answers, their scores and a seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Chooser = Callable[[Sequence["Candidate"], "Pairing", np.random.Generator], list[tuple[int, int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One answer.

    Attributes:
        text: as it will stand in the pair.
        score: higher is better; nan: there is none, and the answer is left out.
        length: in tokens (words where tokens are not known).
    """

    text: str
    score: float
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """How pairs are chosen.

    Attributes:
        how: ``best-worst``; ``best-random``: the best against any other; ``all``: every two; ``length-matched``: the
            two closest in length among those whose scores differ enough; ``ranked``: neighbours in the ranking.
        min_margin: a pair's scores differ by more than this (0: ties are dropped).
        max_similarity: answers that share more than this part of their words are near-duplicates; the better stays.
        cap: pairs a prompt at most.
        seed: of random choices.
    """

    how: str = "best-worst"
    min_margin: float = 0.0
    max_similarity: float = 0.9
    cap: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Paired:
    """What a prompt gave.

    Attributes:
        pairs: (better, worse) as places in the list of candidates.
        reason: why there is none, or empty.
        near_duplicates: candidates that were left out.
    """

    pairs: tuple[tuple[int, int], ...]
    reason: str
    near_duplicates: int


def pair_up(candidates: Sequence[Candidate], pairing: Pairing, prompt: int = 0) -> Paired:
    """Chooses pairs among the answers to one prompt.

    Args:
        candidates: the answers.
        pairing: how.
        prompt: number of the prompt, for random choices.

    Raises:
        ValueError: ``pairing.how`` is unknown.
    """
    if pairing.how not in CHOOSERS:
        raise ValueError(f"{pairing.how!r} is none of {', '.join(CHOOSERS)}")
    if len(candidates) < 2:
        return Paired((), "fewer than two answers", 0)
    scored = [i for i, c in enumerate(candidates) if not math.isnan(c.score)]
    if len(scored) < 2:
        return Paired((), "fewer than two answers were scored", 0)
    if len(scored) < len(candidates):
        rest = pair_up([candidates[i] for i in scored], pairing, prompt)
        return Paired(tuple((scored[a], scored[b]) for a, b in rest.pairs), rest.reason, rest.near_duplicates)
    kept = distinct(candidates, pairing.max_similarity)
    left_out = len(candidates) - len(kept)
    if len(kept) < 2:
        return Paired((), "all answers are near-duplicates", left_out)
    scores = [candidates[i].score for i in kept]
    if max(scores) - min(scores) <= pairing.min_margin:
        tie = max(scores) == min(scores)
        return Paired((), "all scores are equal" if tie else "no two scores differ by the margin", left_out)
    random = np.random.Generator(np.random.Philox(key=np.array([pairing.seed, prompt], dtype=np.uint64)))
    found = CHOOSERS[pairing.how]([candidates[i] for i in kept], pairing, random)
    pairs = tuple((kept[a], kept[b]) for a, b in found[: pairing.cap])
    return Paired(pairs, "" if pairs else "no pair passed", left_out)


def distinct(candidates: Sequence[Candidate], max_similarity: float) -> list[int]:
    """Places of answers none of which is a near-duplicate of a better one, best first among equals of text."""
    order = sorted(range(len(candidates)), key=lambda i: (-candidates[i].score, i))
    kept: list[int] = []
    for i in order:
        if all(similarity(candidates[i].text, candidates[k].text) <= max_similarity for k in kept):
            kept.append(i)
    return sorted(kept)


def similarity(a: str, b: str) -> float:
    """Jaccard index of the two texts' word trigrams (words, in texts of fewer than three); 1 for equal texts."""
    if a == b:
        return 1.0
    x, y = _grams(a), _grams(b)
    return len(x & y) / len(x | y) if x | y else 1.0


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    size = 3 if len(words) >= 3 else 1
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def _ranking(candidates: Sequence[Candidate]) -> list[int]:
    return sorted(range(len(candidates)), key=lambda i: (-candidates[i].score, i))


def _wide(candidates: Sequence[Candidate], a: int, b: int, pairing: Pairing) -> bool:
    return candidates[a].score - candidates[b].score > pairing.min_margin


def _best_worst(candidates: Sequence[Candidate], _p: Pairing, _r: np.random.Generator) -> list[tuple[int, int]]:
    ranking = _ranking(candidates)
    return [(ranking[0], ranking[-1])]


def _best_random(candidates: Sequence[Candidate], pairing: Pairing, r: np.random.Generator) -> list[tuple[int, int]]:
    best, *rest = _ranking(candidates)
    worse = [i for i in rest if _wide(candidates, best, i, pairing)]
    return [(best, worse[i]) for i in r.permutation(len(worse))]


def _all(candidates: Sequence[Candidate], pairing: Pairing, _r: np.random.Generator) -> list[tuple[int, int]]:
    """Widest margin first."""
    ranking = _ranking(candidates)
    pairs = [(a, b) for k, a in enumerate(ranking) for b in ranking[k + 1 :] if _wide(candidates, a, b, pairing)]
    return sorted(pairs, key=lambda p: candidates[p[1]].score - candidates[p[0]].score)


def _length_matched(candidates: Sequence[Candidate], pairing: Pairing, r: np.random.Generator) -> list[tuple[int, int]]:
    pairs = _all(candidates, pairing, r)
    return sorted(pairs, key=lambda p: abs(candidates[p[0]].length - candidates[p[1]].length))


def _ranked(candidates: Sequence[Candidate], pairing: Pairing, _r: np.random.Generator) -> list[tuple[int, int]]:
    ranking = _ranking(candidates)
    return [(a, b) for a, b in itertools.pairwise(ranking) if _wide(candidates, a, b, pairing)]


CHOOSERS: dict[str, Chooser] = {
    "best-worst": _best_worst,
    "best-random": _best_random,
    "all": _all,
    "length-matched": _length_matched,
    "ranked": _ranked,
}
