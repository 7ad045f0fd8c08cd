"""What can be told of answers from their text alone: lengths, variety, repetition, and one answer given to everything.

distinct-n and self-BLEU change with the number of texts they are computed over. Across prompts both are therefore means
over groups of equally many prompts, so that evaluations of different size compare, and groups are independent units.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trueup.evals.figure import Figure, mean_figure, prompts_of, rate_figure
from trueup.feedback.base import Answered
from trueup.feedback.rules import repetition
from trueup.ops.diversity import distinct

GROUP = 10  # prompts a group
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long answers are.

    Attributes:
        figures: mean words, characters and (where all are known) tokens; shares of empty and truncated answers.
        words: quantiles 5, 25, 50, 75 and 95 % of the number of words.
    """

    figures: tuple[Figure, ...]
    words: tuple[float, ...]


def lengths(answers: Sequence[Answered], *, seed: int = 0) -> Lengths:
    """Length distribution of answers.

    Raises:
        ValueError: no answers.
    """
    prompts = prompts_of(answers)
    words = np.array([len(a.answer.split()) for a in answers], dtype=float)
    floor = (0.0, math.inf)
    counts = {"length_words": words, "length_characters": np.array([float(len(a.answer)) for a in answers])}
    tokens = [a.tokens for a in answers if a.tokens is not None]
    if answers and len(tokens) == len(answers):
        counts["length_tokens"] = np.array(tokens, dtype=float)
    figures = [mean_figure(name, values, prompts, bounds=floor, seed=seed) for name, values in counts.items()]
    empty = np.array([float(not a.answer.strip()) for a in answers])
    cut = np.array([float(a.truncated) for a in answers])
    figures.append(rate_figure("empty", empty, prompts))
    figures.append(rate_figure("truncated", cut, prompts))
    return Lengths(tuple(figures), tuple(float(q) for q in np.quantile(words, QUANTILES)))


# ── variety ──


def self_bleu(texts: Sequence[Sequence[str]], *, order: int = 4, epsilon: float = 0.1) -> np.ndarray:
    """BLEU of each text against all the others, ``[k]``: 1 for equal texts, near 0 for unrelated ones.

    BLEU = BP · exp(1/N Σ_n log p_n) (Papineni et al. 2002, eq. in section 2.3), each text in turn the candidate and the
    others its references (Zhu et al. 2018, arXiv 1802.01886). p_n clips an n-gram's count at its largest count in any
    one reference; BP = min(1, e^(1 − r/c)), r the reference length next to c (the shorter of two). An n-gram order
    without a match counts as ``epsilon`` matches. An order that the text is too short for is left out, where others
    would call it 0 of 1. A text without words scores 0.

    Args:
        texts: the words of each text, two texts at least.
        order: N.
        epsilon: stands for no match.

    Raises:
        ValueError: fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError(f"self-BLEU needs two texts at least, got {len(texts)}")
    logs, orders = np.zeros(len(texts)), np.zeros(len(texts))
    for n in range(1, order + 1):
        counts = [_grams(words, n) for words in texts]
        top = _two_largest(counts)
        for i, own in enumerate(counts):
            total = sum(own.values())
            if total:
                matches = sum(min(c, top[g][1] if top[g][2] == i else top[g][0]) for g, c in own.items())
                logs[i] += math.log((matches or epsilon) / total)
                orders[i] += 1
    sizes = np.array([len(t) for t in texts])
    penalty = np.array([_brevity(sizes, i) for i in range(len(texts))])
    return np.where(orders > 0, np.exp(logs / np.maximum(orders, 1)) * penalty, 0.0)


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _two_largest(counts: Sequence[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """For each n-gram: its largest count in one text, the next largest in another text, and the first text's index."""
    top: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, own in enumerate(counts):
        for gram, count in own.items():
            first, second, owner = top.get(gram, (0, 0, -1))
            if count > first:
                top[gram] = (count, first, i)
            elif count > second:
                top[gram] = (first, count, owner)
    return top


def _brevity(sizes: np.ndarray, i: int) -> float:
    """BP of text ``i`` against the others."""
    own = int(sizes[i])
    if own == 0:
        return 0.0
    others = np.delete(sizes, i)
    closest = min(others.tolist(), key=lambda r: (abs(r - own), r))
    return min(1.0, math.exp(1 - closest / own))


def variety_across(
    answers: Sequence[Answered], *, group: int = GROUP, first_words: int | None = None, seed: int = 0
) -> tuple[Figure, ...]:
    """distinct-1, -2, -3 and self-BLEU over answers to *different* prompts; one answer a prompt is used, the first.

    Prompts are shuffled into groups of ``group``; a figure is the mean over groups. Fewer different n-grams, or a
    higher self-BLEU, mean less variety.

    Args:
        answers: of at least ``group`` prompts.
        group: prompts a group; figures compare only at equal ``group``.
        first_words: words of each answer that count (longer answers repeat more); None: all.
        seed: of the grouping.

    Raises:
        ValueError: ``group`` below 2, or fewer prompts than that.
    """
    firsts: dict[str, list[str]] = {}
    for prompt, answered in zip(prompts_of(answers), answers, strict=True):
        firsts.setdefault(prompt, answered.answer.split()[:first_words])
    if not 2 <= group <= len(firsts):
        raise ValueError(f"variety across prompts needs 2 <= group <= prompts, got {group} and {len(firsts)}")
    texts = list(firsts.values())
    order = np.random.default_rng(seed).permutation(len(texts))[: len(texts) // group * group].reshape(-1, group)
    groups = [[texts[i] for i in row] for row in order]
    note = f"groups of {group} prompts" + ("" if first_words is None else f", first {first_words} words")
    return _variety(groups, [str(i) for i in range(len(groups))], "across", note)


def variety_within(answers: Sequence[Answered]) -> tuple[Figure, ...]:
    """distinct-1, -2, -3 and self-BLEU over the answers to *one* prompt, averaged over prompts.

    Raises:
        ValueError: a prompt with fewer than two answers, or prompts with different numbers of answers.
    """
    by_prompt: dict[str, list[list[str]]] = {}
    for prompt, answered in zip(prompts_of(answers), answers, strict=True):
        by_prompt.setdefault(prompt, []).append(answered.answer.split())
    sizes = {len(t) for t in by_prompt.values()}
    if len(sizes) != 1 or sizes == {1}:
        shown = ", ".join(str(s) for s in sorted(sizes)) or "none"
        raise ValueError(f"variety within prompts needs the same number (2 or more) of answers each, got {shown}")
    return _variety(list(by_prompt.values()), list(by_prompt), "within", f"{sizes.pop()} answers a prompt")


def _variety(
    groups: Sequence[Sequence[Sequence[str]]], clusters: Sequence[str], where: str, note: str
) -> tuple[Figure, ...]:
    columns = {
        f"distinct_{n}_{where}": np.array([distinct([" ".join(t) for t in texts], n) for texts in groups])
        for n in (1, 2, 3)
    }
    columns[f"self_bleu_{where}"] = np.array([float(self_bleu(texts).mean()) for texts in groups])
    count = sum(len(texts) for texts in groups)  # answers; the groups are what is independent
    return tuple(replace(rate_figure(name, values, clusters, note=note), n=count) for name, values in columns.items())


def repeated_ngrams(answers: Sequence[Answered], *, n: int = 3) -> Figure:
    """Mean share of an answer's word n-grams that occurred in it before; 0 is best.

    Raises:
        ValueError: no answers.
    """
    shares = np.array([-repetition(a, n=n) for a in answers]) + 0.0  # -0.0 becomes 0.0
    return rate_figure(f"repeated_{n}grams", shares, prompts_of(answers))
