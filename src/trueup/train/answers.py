"""What sampled answers are like, beside what they score: figures that monitors watch.

A figure that is not defined for a batch (one answer a prompt, no spread, too few tokens) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from trueup.models.sampling import Sample
from trueup.ops.watching import (
    duplicate_share,
    length_correlation,
    rarefied_distinct,
    repeated_ngrams,
    same_answers,
    shared_answer,
)


def answer_metrics(groups: Sequence[Sequence[Sample]], scores: np.ndarray) -> dict[str, float]:
    """Figures of a batch of answers.

    Args:
        groups: the answers to each prompt.
        scores: as the scorer gave them, ``[S]``, in the order of the answers.
    """
    group = [i for i, answers in enumerate(groups) for _ in answers]
    texts = [s.text for answers in groups for s in answers]
    ids = [s.ids.tolist() for answers in groups for s in answers if s.ids is not None]
    lengths = np.array([len(i) for i in ids], dtype=np.float64)
    finite = bool(np.isfinite(scores).all())
    return defined({
        "score/length_correlation": length_correlation(scores, lengths, np.array(group)) if finite else math.nan,
        "answers/repeated": repeated_ngrams(ids),
        "answers/distinct_2": rarefied_distinct(ids),
        "answers/shared": shared_answer(texts, group),
        "answers/same": same_answers(texts, group),
    })  # fmt: skip


def repeats(ids: Sequence[str], contents: Sequence[Hashable]) -> dict[str, float]:
    """Share of different rows of a batch whose content is that of another one; a row that came twice counts once."""
    return defined({"rows/duplicates": duplicate_share(list(dict(zip(ids, contents, strict=True)).values()))})


def defined(figures: dict[str, float]) -> dict[str, float]:
    """Those that are a number."""
    return {name: value for name, value in figures.items() if not math.isnan(value)}
