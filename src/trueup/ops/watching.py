"""Figures that monitors watch and that cost next to nothing: of a batch of answers, of a batch of pairs, of a log.

Each returns one number. ``nan`` means that the figure is not defined for this batch (too few answers, no spread): such
a figure is left out of the log, nothing stands in for it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import chain, combinations
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats  # pyright: ignore[reportMissingTypeStubs]

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


def length_correlation(score: Floats, length: Floats, group: Ints, *, rank: bool = False) -> float:
    """Correlation of score and length among answers to the same prompt, pooled over prompts.

    r = Σ (s − s̄_g)(l − l̄_g) / √(Σ (s − s̄_g)² Σ (l − l̄_g)²), with the means of each prompt's own answers: a prompt
    that asks for long answers and is easy to score well does not count as a liking for length. Pearson's as in ODIN
    (Chen et al. 2024, arXiv 2402.07319, table 1); with ``rank`` Spearman's: ranks within the prompt, ties share theirs.

    Args:
        score: ``[n]``.
        length: tokens of each answer, ``[n]``.
        group: which prompt each answers, ``[n]``.
        rank: ranks instead of values.

    Returns:
        In [−1, 1]; nan if scores or lengths are equal within every prompt.

    Raises:
        ValueError: lengths that differ.
    """
    if not len(score) == len(length) == len(group):
        raise ValueError(f"length_correlation: {len(score)} scores, {len(length)} lengths, {len(group)} groups")
    s, l = np.zeros(len(score)), np.zeros(len(score))  # noqa: E741 (the equation's letter)
    for g in np.unique(group):
        mine = group == g
        s[mine], l[mine] = _centred(score[mine], rank), _centred(length[mine], rank)
    scale = math.sqrt(float(s @ s) * float(l @ l))
    return float(s @ l) / scale if scale > 0 else math.nan


def _centred(values: Floats, rank: bool) -> Floats:
    x = np.asarray(stats.rankdata(values) if rank else values, dtype=np.float64)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return x - x.mean()


def repeated_ngrams(sequences: Sequence[Sequence[int]], n: int = 4) -> float:
    """Share of an answer's token n-grams that stood in it before, mean over answers.

    1 − (different n-grams) / (n-grams) of each answer (seq-rep-n: Welleck et al. 2019, arXiv 1908.04319, eq. 5).

    Returns:
        In [0, 1); nan if no answer has n tokens.
    """
    shares = [1 - len(set(grams)) / len(grams) for grams in (_ngrams(s, n) for s in sequences) if grams]
    return float(np.mean(shares)) if shares else math.nan


def _ngrams(sequence: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]


def rarefied_distinct(sequences: Sequence[Sequence[int]], n: int = 2, *, draws: int = 64) -> float:
    """distinct-n that does not depend on how many and how long the answers are.

    The expected number of different n-grams among ``draws`` of the N, drawn without replacement, over ``draws``:
    Σ_i [1 − C(N − N_i, m) / C(N, m)] / m for types that occur N_i times (rarefaction: Hurlbert 1971, Ecology 52,
    eq. 13; distinct-n: Li et al. 2016, arXiv 1510.03055).

    Returns:
        In (0, 1]; nan if there are fewer than ``draws`` n-grams.
    """
    counts = np.array(list(Counter(chain.from_iterable(_ngrams(s, n) for s in sequences)).values()), dtype=np.float64)
    total = float(counts.sum())
    if total < draws:
        return math.nan
    left = total - counts
    # a type with fewer than m others is in every sample: its chance of absence is 0
    absent = np.where(left >= draws, np.exp(_log_choose(np.maximum(left, draws), draws) - _log_choose(total, draws)), 0)
    return float((1 - absent).sum()) / draws


def _log_choose(n: Floats | float, k: int) -> Floats:
    log = special.gammaln  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return np.asarray(log(np.add(n, 1.0)) - log(k + 1.0) - log(np.subtract(n, k - 1.0)))


def shared_answer(
    answers: Sequence[str], prompts: Sequence[Hashable], *, short: int = 3, short_share: float = 0.5
) -> float:
    """How many other prompts got the answer that most prompts got.

    (prompts with that answer − 1) / (prompts − 1), blanks and case aside: 0 if no two prompts share an answer, 1 if one
    answer serves all. Answers of up to ``short`` words ("yes", a number) are right for many prompts: they count only
    where they go to more than ``short_share`` of them.

    Args:
        answers: ``[n]``.
        prompts: what tells prompts apart, ``[n]``.
        short: words.
        short_share: share of prompts.

    Returns:
        In [0, 1]; nan with fewer than two prompts.

    Raises:
        ValueError: lengths that differ.
    """
    served: defaultdict[str, set[Hashable]] = defaultdict(set)
    for answer, prompt in zip(answers, prompts, strict=True):
        served[_plain(answer)].add(prompt)
    others = len(set(prompts)) - 1
    if others < 1:
        return math.nan
    shares = [(len(p) - 1) / others for a, p in served.items() if len(a.split()) > short]
    shares += [
        share for a, p in served.items() if len(a.split()) <= short and (share := (len(p) - 1) / others) > short_share
    ]
    return max(shares, default=0.0)


def _plain(answer: str) -> str:
    return " ".join(answer.split()).casefold()


def same_answers(answers: Sequence[str], group: Sequence[Hashable]) -> float:
    """Share of answers that equal, blanks and case aside, another answer to the same prompt.

    Returns:
        In [0, 1]; nan if no prompt has two answers.

    Raises:
        ValueError: lengths that differ.
    """
    keys = [(g, _plain(a)) for a, g in zip(answers, group, strict=True)]
    sizes, counts = Counter(group), Counter(keys)
    rivals = [counts[key] > 1 for key in keys if sizes[key[0]] > 1]
    return sum(rivals) / len(rivals) if rivals else math.nan


def duplicate_share(rows: Sequence[Hashable]) -> float:
    """Share of rows whose content equals that of another row of the same sequence; nan without rows."""
    counts = Counter(rows)
    return sum(counts[r] > 1 for r in rows) / len(rows) if rows else math.nan


def multiplicative_error(gap: Floats) -> float:
    """Mean of e^|g|, g the difference of a token's log-probability between sampler and trainer, ``[N]``: 1 is equal."""
    return float(np.mean(np.exp(np.abs(gap)))) if len(gap) else math.nan


def member_spread(scores: Floats) -> float:
    """Standard deviation over the members of an ensemble, ``[k, n]`` scores, mean over answers.

    The quantity whose square Coste et al. 2023 (arXiv 2310.02743, eq. 4) take from the mean.

    Returns:
        In the scorers' unit; nan with fewer than two members or no answers.
    """
    return float(scores.std(axis=0).mean()) if scores.shape[0] > 1 and scores.shape[1] else math.nan


def conflict_share(preference: Floats, *, margin: float = 0.2) -> float:
    """Share of pairs of answers on which two principles clearly disagree, of those two that do so most.

    Principle i prefers the first answer with p_i; its margin is |2 p_i − 1|. Two disagree clearly if they prefer
    different answers, both by more than ``margin``.

    Args:
        preference: p, ``[k, n]``, k principles of one level; nan where one was not judged.
        margin: of both.

    Returns:
        In [0, 1]; nan if no two principles were judged on the same pair.
    """
    lean = 2 * preference - 1
    worst = math.nan
    for i, j in combinations(range(len(lean)), 2):
        both = np.isfinite(lean[i]) & np.isfinite(lean[j])
        if both.any():
            a, b = lean[i][both], lean[j][both]
            share = float(((a * b < 0) & (np.abs(a) > margin) & (np.abs(b) > margin)).mean())
            worst = share if math.isnan(worst) else max(worst, share)
    return worst


class Peak(NamedTuple):
    """R(d) = d (α − β log d): its parameters and the distance at which it is highest."""

    alpha: float
    beta: float
    distance: float


def reward_peak(distance: Floats, gain: Floats) -> Peak | None:
    """Where a true reward is predicted to peak, from what it was so far.

    Least squares of R_RL(d) = d (α − β log d), d = √KL(π ‖ start), R the gain over the start (Gao et al. 2022, arXiv
    2210.10760, eq. 2); dR/dd = 0 at d* = e^(α/β − 1).

    Args:
        distance: d of each evaluation, ``[n]``; those at 0 say nothing and are left out.
        gain: true reward less that at the start, ``[n]``.

    Returns:
        None with fewer than three usable points, or if they do not bend down (β <= 0).
    """
    usable = (distance > 0) & np.isfinite(distance) & np.isfinite(gain)
    d = distance[usable]
    if len(np.unique(d)) < 3:
        return None
    design = np.stack([d, -d * np.log(d)], axis=1)
    alpha, beta = np.linalg.lstsq(design, gain[usable], rcond=None)[0].tolist()
    if not beta > 0 or alpha / beta - 1 > 50:  # e^50: no peak within reach
        return None
    return Peak(alpha, beta, math.exp(alpha / beta - 1))
