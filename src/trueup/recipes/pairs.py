"""`trueup pairs`: prompts -> answers of one or several models -> scores -> preference data, with provenance."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trueup.data.audit import Spread
from trueup.data.pairing import Candidate, Paired, Pairing, pair_up
from trueup.data.write import write_rows
from trueup.errors import DataError, ScoringError
from trueup.feedback.base import Answered, Scorer
from trueup.feedback.ranking import JudgeScorer
from trueup.models.sampling import Sampling
from trueup.ops.stats import wilson
from trueup.recipes.answers import Progress, Servers, draw_into, opened, prompts_hash, read_prompts, shown
from trueup.recipes.build import Machine
from trueup.runs.encode import plain
from trueup.runs.journal import Journal
from trueup.types import Prompt

log = logging.getLogger(__name__)

Export = Literal["preference", "soft", "unpaired"]
SCORED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Source:
    """Who answers, and how: a model with a sampling of its own, in this process or behind servers."""

    model: str
    sampling: Sampling
    servers: Servers | None = None


@dataclass(frozen=True, slots=True)
class PairsReport:
    """What came out.

    Attributes:
        prompts, answers, pairs: counts.
        reasons: why prompts gave no pair, with how many.
        pairs_a_prompt: number of pairs -> number of prompts.
        near_duplicates: answers left out.
        scores, lengths: spread over all answers (lengths in tokens).
        longer_won: share of pairs whose better answer is the longer, with its 95 % interval; None without pairs.
        drawn, scored: made now; the rest was there.
        left_out: why answers made no pair (a judge could not score them, they hold a NUL), with how many.
    """

    prompts: int
    answers: int
    pairs: int
    reasons: dict[str, int]
    pairs_a_prompt: dict[int, int]
    near_duplicates: int
    scores: tuple[float, float, float, float]
    lengths: Spread
    longer_won: tuple[float, float, float] | None
    drawn: int
    scored: int
    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict[str, int])

    def to_json(self) -> dict[str, Any]:
        """As plain values, with keys that JSON can have."""
        return {**asdict(self), "pairs_a_prompt": {str(n): count for n, count in sorted(self.pairs_a_prompt.items())}}

    def lines(self) -> list[str]:
        """For a person."""
        low, mean, high, std = self.scores
        spread = ", ".join(f"{n} pairs: {count} prompts" for n, count in sorted(self.pairs_a_prompt.items()))
        out = [
            f"{self.prompts} prompts, {self.answers} answers ({self.drawn} drawn now, {self.scored} scored now), "
            f"{self.pairs} pairs, {self.rows} rows written",
            f"pairs a prompt: {spread}",
            *[f"  none because {reason}: {count}" for reason, count in sorted(self.reasons.items())],
            *[f"answers left out because {reason}: {n}" for reason, n in sorted(self.left_out.items())],
            f"near-duplicate answers left out: {self.near_duplicates}",
            f"scores: {low:.4g} to {high:.4g}, mean {mean:.4g}, standard deviation {std:.4g}",
            f"tokens: {self.lengths.least} to {self.lengths.most}, median {self.lengths.median:g}",
        ]
        if self.longer_won is not None:
            share, a, b = self.longer_won
            out.append(f"the longer answer won in {share:.1%} [{a:.1%}, {b:.1%}] of pairs (equal lengths count half)")
        return out


@dataclass(slots=True)
class _Answers:
    """All answers to one prompt, in the order of the sources."""

    prompt: Prompt
    keys: list[str] = field(default_factory=list[str])
    records: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    sources: list[int] = field(default_factory=list[int])


def make_pairs(
    sources: Sequence[Source],
    data: str,
    out: Path,
    scorer: Scorer,
    pairing: Pairing,
    machine: Machine,
    *,
    export: Export = "preference",
    soft_scale: float = 1.0,
    limit: int | None = None,
    tell: Progress | None = None,
) -> PairsReport:
    """Makes ``out`` from the prompts of ``data``.

    Drawn answers and their scores are kept in ``<out>.answers.part`` and ``<out>.scores.part`` until ``out`` is
    written; the same call goes on from there and repeats no call. Every row has a ``provenance``: model with the hash
    of its weights, sampling, index, score, and who scored.

    Args:
        sources: who answers.
        data: prompts, in any format that holds them.
        out: file to make.
        scorer: who scores.
        pairing: how pairs are chosen.
        machine: where and how precisely models run.
        export: ``preference``: prompt, chosen, rejected; ``soft``: the same with ``preference``
            σ((score difference) / ``soft_scale``); ``unpaired``: one row an answer, with ``label``.
        soft_scale: see ``export``.
        limit: use the first prompts only.
        tell: called after each answer.

    Raises:
        DataError: prompts that cannot be used, a file that is there, or no pair at all.
        ScoringError: an answer could not be scored; what was scored stays.
        RunError: the unfinished files were begun with something else.
    """
    if out.exists():
        raise DataError(f"{out}: exists already; name another file")
    prompts = read_prompts(data, limit=limit)
    identity = {"prompts": prompts_hash(prompts), "precision": str(machine.dtype)}
    beside = {name: out.with_name(f"{out.name}.{name}.part") for name in ("answers", "scores")}
    listed = {"sources": [{"model": s.model, "sampling": plain(asdict(s.sampling))} for s in sources]}
    with Journal(beside["answers"], {**identity, **listed}) as answers:
        names, drawn = _draw(answers, sources, prompts, machine, tell)
        whole = _gathered(prompts, sources, answers)
        with Journal(beside["scores"], {**identity, **listed, "models": names, "scorer": scorer.identity}) as scores:
            scored = _score(whole, scorer, scores)
            paired = _pair(whole, scores, pairing)
            rows = [_with(r, names, sources, scorer) for r in _rows(whole, scores, paired, export, soft_scale)]
            report = _report(whole, scores, paired, drawn, scored)
            if not rows:
                told = ", ".join(f"{reason}: {n} prompts" for reason, n in sorted(report.reasons.items()))
                raise DataError(f"{data}: no pair at all ({told}); answers and scores are kept beside {out}")
            write_rows(out, rows)
            scores.remove()
        answers.remove()
    return replace(report, rows=len(rows))


def _draw(
    journal: Journal, sources: Sequence[Source], prompts: Sequence[Prompt], machine: Machine, tell: Progress | None
) -> tuple[list[str], int]:
    """Answers of every source; their identities, and how many were drawn now."""
    names: list[str] = []
    drawn = 0
    for number, source in enumerate(sources):
        with opened(source.model, machine, source.servers) as sampler:
            names.append(sampler.identity)
            drawn += draw_into(journal, sampler, prompts, source.sampling, prefix=f"{number}|", tell=tell)
    return names, drawn


def _gathered(prompts: Sequence[Prompt], sources: Sequence[Source], journal: Journal) -> list[_Answers]:
    whole = []
    for prompt in prompts:
        answers = _Answers(prompt)
        for number, source in enumerate(sources):
            for k in range(source.sampling.n):
                answers.keys.append(f"{number}|{prompt.id}#{k}")
                answers.records.append(journal.records[answers.keys[-1]])
                answers.sources.append(number)
        whole.append(answers)
    return whole


def _rank(whole: Sequence[_Answers], judge: JudgeScorer, journal: Journal) -> int:
    """As :func:`_score` by a judge, prompt by prompt; what it cannot judge has no score, but a reason."""
    todo = [a for a in whole if any(key not in journal for key in a.keys)]
    for start in range(0, len(todo), SCORED_AT_ONCE):
        part = todo[start : start + SCORED_AT_ONCE]
        found = judge.rank([[_answered(a.prompt, r) for r in a.records] for a in part])
        for a, one in zip(part, found, strict=True):
            for key, score, reason in zip(a.keys, one.scores, one.reasons, strict=True):
                if key not in journal:
                    record = {"score": None, "unscored": reason} if math.isnan(score) else {"score": float(score)}
                    journal.add(key, record)
    return sum(len(a.keys) for a in todo)


def _score(whole: Sequence[_Answers], scorer: Scorer, journal: Journal) -> int:
    """Scores what the journal does not hold; returns how many answers that were."""
    if isinstance(scorer, JudgeScorer):
        return _rank(whole, scorer, journal)
    todo = [
        (key, _answered(a.prompt, record))
        for a in whole
        for key, record in zip(a.keys, a.records, strict=True)
        if key not in journal
    ]
    for start in range(0, len(todo), SCORED_AT_ONCE):
        part = todo[start : start + SCORED_AT_ONCE]
        values = scorer.score([answered for _, answered in part])
        for (key, answered), value in zip(part, values, strict=True):
            if not math.isfinite(value):
                raise ScoringError(f"{scorer.identity}: row {answered.id}: the score is {value}")
            journal.add(key, {"score": float(value)})
    return len(todo)


def _answered(prompt: Prompt, record: Mapping[str, Any]) -> Answered:
    return Answered(
        id=prompt.id, prompt=prompt.prompt, answer=record["answer"], truncated=record["finish"] == "length",
        tokens=record["tokens"], meta=prompt.meta,
    )  # fmt: skip


def _length(record: Mapping[str, Any]) -> int:
    """Tokens, as the server or this process counted them."""
    return int(record["tokens"])


def _left_out(answer: Mapping[str, Any], scored: Mapping[str, Any]) -> str | None:
    """Why an answer makes no pair whatever the others are; None: it may."""
    if scored["score"] is None:
        return str(scored["unscored"])
    return "it holds a NUL character, which no data file may" if "\0" in answer["answer"] else None


def _pair(whole: Sequence[_Answers], scores: Journal, pairing: Pairing) -> list[Paired]:
    found = []
    for number, a in enumerate(whole):
        candidates = [
            Candidate(text=r["answer"], score=math.nan if _left_out(r, s) else float(s["score"]), length=_length(r))
            for r, s in zip(a.records, (scores.records[k] for k in a.keys), strict=True)
        ]
        found.append(pair_up(candidates, pairing, number))
    return found


def _rows(
    whole: Sequence[_Answers], scores: Journal, paired: Sequence[Paired], export: Export, scale: float
) -> Iterator[dict[str, Any]]:
    for a, found in zip(whole, paired, strict=True):
        for number, (better, worse) in enumerate(found.pairs):
            name = f"{a.prompt.id}/{number}"
            ends = {"chosen": better, "rejected": worse}
            values = {side: scores.records[a.keys[i]]["score"] for side, i in ends.items()}
            told = {side: (a.sources[i], a.keys[i], values[side]) for side, i in ends.items()}
            prompt = shown(a.prompt.prompt)
            texts = {side: _text(a.prompt, a.records[i]["answer"]) for side, i in ends.items()}
            if export == "unpaired":
                for side in ends:
                    yield {"id": f"{name}/{side}", "prompt": prompt, "completion": texts[side],
                           "label": side == "chosen", "provenance": {side: told[side]}}  # fmt: skip
                continue
            row: dict[str, Any] = {"id": name, "prompt": prompt, **texts}
            if export == "soft":
                row["preference"] = 1 / (1 + math.exp(-(values["chosen"] - values["rejected"]) / scale))
            yield {**row, "provenance": told}


def _text(prompt: Prompt, answer: str) -> Any:
    return answer if isinstance(prompt.prompt, str) else [{"role": "assistant", "content": answer}]


def _with(row: dict[str, Any], names: Sequence[str], sources: Sequence[Source], scorer: Scorer) -> dict[str, Any]:
    """The row with its provenance spelt out."""
    told = {
        side: {"model": names[number], "sampling": plain(asdict(sources[number].sampling)),
               "index": int(key.rpartition("#")[2]), "score": score}
        for side, (number, key, score) in row["provenance"].items()
    }  # fmt: skip
    return {**row, "provenance": {**told, "scorer": scorer.identity}}


def _report(
    whole: Sequence[_Answers], scores: Journal, paired: Sequence[Paired], drawn: int, scored: int
) -> PairsReport:
    records = [scores.records[k] for a in whole for k in a.keys]
    values = np.array([r["score"] for r in records if r["score"] is not None])
    spread = (values.min(), values.mean(), values.max(), values.std()) if len(values) else (math.nan,) * 4
    reasons = [_left_out(r, s) for r, s in zip((r for a in whole for r in a.records), records, strict=True)]
    won = []
    for a, found in zip(whole, paired, strict=True):
        sizes = [_length(r) for r in a.records]
        won += [1.0 if sizes[b] > sizes[w] else 0.5 * (sizes[b] == sizes[w]) for b, w in found.pairs]
    return PairsReport(
        prompts=len(whole),
        answers=len(records),
        pairs=len(won),
        reasons=dict(Counter(p.reason for p in paired if p.reason)),
        pairs_a_prompt=dict(Counter(len(p.pairs) for p in paired)),
        near_duplicates=sum(p.near_duplicates for p in paired),
        scores=tuple(map(float, spread)),  # type: ignore[arg-type]
        lengths=Spread.of([_length(r) for a in whole for r in a.records]),
        longer_won=tuple(wilson(sum(won), len(won))) if won else None,  # type: ignore[arg-type]
        drawn=drawn,
        scored=scored,
        left_out=dict(Counter(reason for reason in reasons if reason is not None)),
    )
