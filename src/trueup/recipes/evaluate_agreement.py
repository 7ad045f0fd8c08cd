"""`trueup eval agreement`: does a judge say what people say, and do people say the same?"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trueup.data.read import records
from trueup.errors import ConfigError, DataError
from trueup.evals.figure import Figure, prompts_of
from trueup.evals.questions import comparisons
from trueup.evals.reward_accuracy import one_answer
from trueup.feedback.base import Answered
from trueup.feedback.judgement import Compared, Judgement, summaries
from trueup.ops.agreement import Label, agreement, cohen_kappa, krippendorff_alpha
from trueup.ops.stats import Interval
from trueup.recipes.build import Machine
from trueup.recipes.evaluate import Evaluation, Subject, interval_figure
from trueup.recipes.evaluate_judges import AT_ONCE, JudgeSpec, judge_warnings, opened_judge
from trueup.types import Comparison

Say = Callable[[str], None]


def agreement_figures(
    first: Sequence[Label], second: Sequence[Label], clusters: Sequence[str], seed: int = 0
) -> list[Figure]:
    """``agreement``, ``cohen_kappa`` and ``krippendorff_alpha`` of two raters over the same rows."""
    n, count = len(first), len(set(clusters))

    def figure(name: str, interval: Interval, note: str = "") -> Figure:
        return interval_figure(name, interval, n, count, note)

    kappa = cohen_kappa(first, second, clusters=clusters, seed=seed)
    alpha = krippendorff_alpha(list(zip(first, second, strict=True)), clusters=clusters, seed=seed)
    flat = "one and the same label throughout" if math.isnan(kappa.mean) else "0: no better than chance"
    return [
        figure("agreement", agreement(first, second, clusters=clusters)),
        figure("cohen_kappa", kappa, flat),
        figure("krippendorff_alpha", alpha, flat),
    ]


# ── a judge and people ──


def evaluate_judge(
    spec: JudgeSpec, data: str, journal: Path, machine: Machine, *, form: str = "pairs", limit: int | None = None,
    seed: int = 0, say: Say | None = None,
) -> tuple[Evaluation, list[dict[str, Any]]]:  # fmt: skip
    """How often a judge prefers what people preferred; also of every member of a panel.

    Which answer stands first is decided by a hash of id and text, so that a judge who likes a place gains nothing.

    Args:
        spec: the judge.
        data: file of comparisons; a preference of 0.5 is a tie.
        journal: folder of the journal.
        machine: where models run.
        form: of the file: ``pairs`` or ``hhh``.
        limit: only the first pairs.
        seed: of intervals.
        say: called with lines of progress.

    Returns:
        The evaluation, and one line a pair.

    Raises:
        DataError: a file without comparisons.
    """
    rows = comparisons(data, form)[:limit]
    pairs, human = zip(*(_placed(r) for r in rows), strict=True)
    said: list[Judgement] = []
    with opened_judge(spec, machine, journal / "judge.jsonl") as judge:
        for start in range(0, len(pairs), AT_ONCE):
            said += judge.compare(pairs[start : start + AT_ONCE])
            if say is not None:
                say(f"{len(said)} of {len(pairs)} pairs judged")
        identity = judge.identity
    clusters = prompts_of([p.first for p in pairs])
    voices = [(identity, said)]
    voices += [(members[0].judge, list(members)) for members in zip(*(j.members for j in said), strict=True)]
    names = list(spec.specs) if len(voices) == 1 else ["panel", *spec.specs]
    summary = summaries(said)
    evaluation = Evaluation(
        kind="agreement",
        headline="",
        settings={"judge": list(spec.specs), "data": data, "form": form, "limit": limit, "rubric": spec.rubric.text},
        subjects=tuple(
            _judge_subject(name, who, own, human, clusters, seed)
            for name, (who, own) in zip(names, voices, strict=True)
        ),
        judges=summary,
        warnings=tuple(judge_warnings(summary)),
    )
    lines = [
        {"id": pair.id, "people": label, "judge": _label(one), "p": one.p, "orders": one.orders,
         "flipped": one.flipped, "tie": one.tie, "unscored": one.unscored}
        for pair, label, one in zip(pairs, human, said, strict=True)
    ]  # fmt: skip
    return evaluation.with_headline(), lines


def _placed(row: Comparison) -> tuple[Compared, str]:
    """The pair in an order that tells nothing, and what people said of it."""
    chosen, rejected = one_answer(row, row.chosen, "chosen"), one_answer(row, row.rejected, "rejected")
    better = 1.0 if row.preference is None else row.preference
    swap = _hash(row.id, chosen.answer) < _hash(row.id, rejected.answer)
    sides: tuple[Answered, Answered] = (rejected, chosen) if swap else (chosen, rejected)
    label = "tie" if better == 0.5 else "second" if (better < 0.5) != swap else "first"
    return Compared(first=sides[0], second=sides[1]), label


def _hash(name: str, text: str) -> bytes:
    return hashlib.sha256(f"{name}\0{text}".encode()).digest()


def _label(judgement: Judgement) -> str | None:
    if judgement.p is None:
        return None
    return "tie" if judgement.tie else "first" if judgement.p > 0.5 else "second"


def _judge_subject(
    name: str, who: str, said: Sequence[Judgement], human: Sequence[str], clusters: Sequence[str], seed: int
) -> Subject:
    labels = [_label(j) for j in said]
    known = [i for i, label in enumerate(labels) if label is not None]
    warnings, figures, left_out = list[str](), list[Figure](), list[str]()
    if lost := len(said) - len(known):
        warnings.append(f"{lost} of {len(said)} pairs are unscored and left out")
    if known:
        own = [labels[i] or "" for i in known]
        figures = agreement_figures([human[i] for i in known], own, [clusters[i] for i in known], seed)
    else:
        left_out.append("agreement: no pair was scored")
    return Subject(
        name=name, source=name, identity=who, rows=len(said), figures=tuple(figures), left_out=tuple(left_out),
        warnings=tuple(warnings),
    )  # fmt: skip


# ── columns of labels ──


def evaluate_raters(data: str, raters: Sequence[str], *, cluster: str | None = None, seed: int = 0) -> Evaluation:
    """Agreement of every two columns of labels, and Krippendorff's alpha of all of them; empty cells are not judged.

    Args:
        data: file with a column a rater.
        raters: the columns.
        cluster: column that names what rows have in common (the prompt); None: every row its own.
        seed: of intervals.

    Raises:
        ConfigError: fewer than two raters.
        DataError: a column that is not there, or two raters without a common row.
    """
    if len(set(raters)) < 2 or len(set(raters)) < len(raters):
        raise ConfigError(f"--raters: two or more different columns are expected, got {', '.join(raters)}")
    table, names = _labels(data, raters, cluster)
    subjects = [
        _two_raters((raters[a], raters[b]), [(row[a], row[b]) for row in table], names, seed)
        for a, b in itertools.combinations(range(len(raters)), 2)
    ]
    alpha = krippendorff_alpha(table, clusters=names, seed=seed)
    used = [n for n, row in zip(names, table, strict=True) if sum(v is not None for v in row) > 1]
    whole = interval_figure("krippendorff_alpha", alpha, len(used), len(set(used)), f"{len(raters)} raters")
    every = Subject(name="all", source=data, identity=", ".join(raters), rows=len(table), figures=(whole,))
    return Evaluation(
        kind="agreement", headline=f"alpha of {len(raters)} raters: {whole}",
        settings={"labels": data, "raters": list(raters), "cluster": cluster}, subjects=(every, *subjects),
    )  # fmt: skip


def _labels(data: str, raters: Sequence[str], cluster: str | None) -> tuple[list[list[Label | None]], list[str]]:
    table: list[list[Label | None]] = []
    names: list[str] = []
    for number, record in enumerate(records(data)):
        origin = record.origin or f"{data}:{record.line}"
        fields: Mapping[str, Any] | None = record.fields
        if fields is None:
            raise DataError(f"{origin}: {record.fault or 'cannot be read'}")
        row: list[Label | None] = []
        for name in (*raters, *([] if cluster is None else [cluster])):
            if name not in fields:
                raise DataError(f"{origin}: {name}: no such column; there are {', '.join(fields)}")
            value = fields[name]
            if value is not None and not isinstance(value, str | int | float):
                raise DataError(f"{origin}: {name}: a label is expected (text or a number), got {value!r}")
            row.append(None if value == "" else value)
        names.append(str(row.pop()) if cluster is not None else str(number))
        table.append(row)
    if not any(sum(v is not None for v in row) > 1 for row in table):
        raise DataError(f"{data}: no row has labels of two raters")
    return table, names


def _two_raters(
    raters: tuple[str, str], table: Sequence[tuple[Label | None, Label | None]], names: Sequence[str], seed: int
) -> Subject:
    name = f"{raters[0]} and {raters[1]}"
    both = [(x, y, n) for (x, y), n in zip(table, names, strict=True) if x is not None and y is not None]
    if not both:
        return Subject(name=name, source=name, identity=name, rows=0, figures=(), left_out=("no row has both labels",))
    figures = agreement_figures([x for x, _, _ in both], [y for _, y, _ in both], [n for _, _, n in both], seed)
    return Subject(name=name, source=name, identity=name, rows=len(both), figures=tuple(figures))
