"""How well a reward model, a rule or a judge ranks answers that people have ranked, against what length alone does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trueup.errors import DataError
from trueup.evals.choice import top_credit
from trueup.evals.figure import Figure, mean_figure, prompts_of, rate_figure
from trueup.feedback.base import Answered, Scorer
from trueup.ops.calibration import Bin, calibration_error, reliability
from trueup.ops.stats import PairedTest, paired_test
from trueup.types import Comparison, Ranking, Text

BINS = 10


@dataclass(frozen=True, slots=True)
class Margins:
    """Scored comparisons, ``[n]`` each.

    Attributes:
        margin: score of the chosen answer minus that of the rejected one.
        longer: characters of the chosen answer minus those of the rejected one.
        prompts: the cluster of each.
    """

    margin: np.ndarray
    longer: np.ndarray
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Pairwise figures.

    Attributes:
        accuracy: share of pairs ranked as people did; a tie is worth a half.
        ties: share of pairs with equal scores.
        length: accuracy of preferring the longer answer, or the shorter if that is the better rule of the two.
        gain: ``accuracy`` minus ``length``, pair by pair.
        test: the same with an exact sign test over prompts.
        log_loss: mean −log σ(margin), nats; log 2 = 0.693 is what a coin has.
        margin: mean margin.
    """

    accuracy: Figure
    ties: Figure
    length: Figure
    gain: Figure
    test: PairedTest
    log_loss: Figure
    margin: Figure

    def figures(self) -> tuple[Figure, ...]:
        """All of them, for a table."""
        return (self.accuracy, self.ties, self.length, self.gain, self.log_loss, self.margin)

    def warning(self) -> str | None:
        """One line for a person if the scorer cannot be told from length alone; None if it can."""
        if self.gain.low > 0:
            return None
        return (
            f"accuracy {self.accuracy} is not shown to be above that of {self.length.note} ({self.length}): "
            f"gain {self.gain}; do not train against it"
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether a margin means what Bradley–Terry training says it means.

    Attributes:
        table: pairs by rising σ(|margin|): what was promised and what came true.
        gap: mean of outcome minus promise; below 0 the scorer is too sure.
        error: expected calibration error; it has no interval, but a note of what a perfectly calibrated scorer with the
            same promises would get.
        brier: mean squared difference of promise and outcome.
    """

    table: tuple[Bin, ...]
    gap: Figure
    error: Figure
    brier: Figure


def score_pairs(scorer: Scorer, rows: Sequence[Comparison]) -> Margins:
    """Scores both sides of every comparison.

    Raises:
        DataError: no rows, or an answer that is more than one assistant turn of text.
        ScoringError: an answer could not be scored.
    """
    if not rows:
        raise DataError("reward accuracy: there is no comparison")
    chosen = [one_answer(r, r.chosen, "chosen") for r in rows]
    rejected = [one_answer(r, r.rejected, "rejected") for r in rows]
    scores = np.asarray(scorer.score([*chosen, *rejected]), dtype=float)
    longer = [len(c.answer) - len(r.answer) for c, r in zip(chosen, rejected, strict=True)]
    margin = scores[: len(rows)] - scores[len(rows) :]
    return Margins(margin, np.array(longer, dtype=float), tuple(prompts_of(chosen)))


def pair_figures(found: Margins, *, seed: int = 0) -> Accuracy:
    """Pairwise accuracy, and whether it beats length.

    The length rule is given its better direction, chosen on the same pairs: a baseline that is hard to beat.

    Raises:
        ValueError: no pairs, or a margin that is not finite.
    """
    if not np.isfinite(found.margin).all():
        raise ValueError("reward accuracy: a margin is not finite")
    hits = _hits(found.margin)
    by_length = _hits(found.longer)
    rule = "preferring the longer answer"
    if by_length.size and by_length.mean() < 0.5:
        by_length, rule = 1 - by_length, "preferring the shorter answer"
    prompts = found.prompts
    loss = np.logaddexp(0.0, -found.margin)
    return Accuracy(
        accuracy=rate_figure("reward_accuracy", hits, prompts, note="chance 0.50"),
        ties=rate_figure("reward_ties", (found.margin == 0).astype(float), prompts),
        length=rate_figure("length_accuracy", by_length, prompts, note=rule),
        gain=mean_figure("gain_over_length", hits - by_length, prompts, bounds=(-1.0, 1.0), seed=seed),
        test=paired_test(hits, by_length, clusters=prompts, seed=seed),
        log_loss=mean_figure("reward_log_loss", loss, prompts, bounds=(0.0, math.inf), note="coin 0.693", seed=seed),
        margin=mean_figure("reward_margin", found.margin, prompts, seed=seed),
    )


def _hits(margin: np.ndarray) -> np.ndarray:
    """1 above zero, 0 below, a half at it."""
    return (np.sign(margin) + 1) / 2


def calibration(found: Margins, *, bins: int = BINS, seed: int = 0) -> Calibration:
    """What σ(|margin|) promises for the higher-scored answer, and what came of it.

    Which answer was preferred is not looked at when pairs are sorted into bins of equal size. Tied pairs promise
    nothing and are left out.

    Args:
        found: scored pairs.
        bins: of the table and the error.
        seed: of the bootstrap and of the simulated perfect scorer.

    Raises:
        ValueError: fewer pairs with a margin than bins.
    """
    told = np.flatnonzero(found.margin != 0)
    if len(told) < bins:
        raise ValueError(f"calibration needs a pair a bin at least: {len(told)} pairs for {bins} bins")
    margin, prompts = found.margin[told], [found.prompts[i] for i in told]
    promised, came = 1 / (1 + np.exp(-np.abs(margin))), (margin > 0).astype(float)
    rng = np.random.default_rng(seed)
    perfect = [
        calibration_error(promised, (rng.random(len(told)) < promised).astype(float), bins=bins) for _ in range(200)
    ]
    error = Figure(
        "calibration_error", calibration_error(promised, came, bins=bins), math.nan, math.nan, len(told),
        len(set(prompts)), math.nan,
        f"{bins} bins; a perfectly calibrated scorer would get {np.mean(perfect):.3f}, and less than "
        f"{np.quantile(perfect, 0.95):.3f} 19 times of 20",
    )  # fmt: skip
    return Calibration(
        table=reliability(promised, came, bins=bins, clusters=prompts),
        gap=mean_figure("calibration_gap", came - promised, prompts, bounds=(-1.0, 1.0), seed=seed),
        error=error,
        brier=rate_figure("reward_brier", (promised - came) ** 2, prompts, note="coin 0.250"),
    )


def best_of_n_figure(scores: Sequence[np.ndarray], right: Sequence[Sequence[int]], prompts: Sequence[str]) -> Figure:
    """How often the highest-scored of several answers is a right one; ties share the credit, 1/#max each.

    Args:
        scores: for each prompt, one score an answer.
        right: for each prompt, the indices of the best answers.
        prompts: the cluster of each.

    Raises:
        ValueError: lengths that differ, or none at all.
    """
    credit = np.array([top_credit(np.asarray(s, dtype=float), r) for s, r in zip(scores, right, strict=True)])
    chance = np.mean([len(r) / len(s) for s, r in zip(scores, right, strict=True)]) if len(scores) else 0.0
    return rate_figure("best_of_n", credit, prompts, note=f"chance {chance:.2f}")


def score_rankings(scorer: Scorer, rows: Sequence[Ranking]) -> Figure:
    """:func:`best_of_n_figure` of a scorer on answers with scores by people (or a better judge).

    Raises:
        DataError: a row whose answers are all equally good, or an answer that is more than one turn.
        ScoringError: an answer could not be scored.
    """
    answers = [[one_answer(r, c, f"completions[{k}]") for k, c in enumerate(r.completions)] for r in rows]
    for row in rows:
        if len(set(row.scores)) < 2:
            raise DataError(f"{row.origin}: scores: all answers are equally good, so that none can be picked wrongly")
    flat = np.asarray(scorer.score([a for group in answers for a in group]), dtype=float)
    cuts = np.cumsum([len(group) for group in answers])[:-1]
    right = [[k for k, s in enumerate(r.scores) if s == max(r.scores)] for r in rows]
    return best_of_n_figure(np.split(flat, cuts), right, prompts_of([g[0] for g in answers]))


def one_answer(row: Comparison | Ranking, completion: Text, field: str) -> Answered:
    """A completion of one turn with its prompt.

    Raises:
        DataError: it is more than one assistant turn of text.
    """
    if isinstance(completion, str):
        return Answered(id=row.id, prompt=row.prompt, answer=completion)
    content = completion[0].get("content") if len(completion) == 1 else None
    if not isinstance(content, str):
        raise DataError(f"{row.origin}: {field}: one assistant turn of text is expected, got {len(completion)} turns")
    return Answered(id=row.id, prompt=row.prompt, answer=content)
