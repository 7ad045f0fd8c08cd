"""`trueup eval reward`, `choice` and `perplexity`: scorers on ranked answers, models on questions and held-out text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trueup.data.files import chunks, has_known_name
from trueup.data.read import read_rows, records
from trueup.data.render import Chat
from trueup.errors import ConfigError, DataError
from trueup.evals.choice import Choice, Scored, choice_figures, order_figures, score_choices, too_long, top_credit
from trueup.evals.figure import Figure
from trueup.evals.perplexity import Document, Surprise, perplexity_figures, surprise
from trueup.evals.questions import comparisons, hhh_choices, plain_choices, truthfulqa_choices
from trueup.evals.reward_accuracy import BINS, Margins, calibration, pair_figures, score_pairs, score_rankings
from trueup.feedback.base import Scorer
from trueup.feedback.parse import open_scorer
from trueup.models.sample import context_of
from trueup.recipes.answers import open_sampler
from trueup.recipes.build import Machine
from trueup.recipes.contestants import Contestant
from trueup.recipes.evaluate import Contrast, Evaluation, Subject, contrast, holm_corrected, table_of
from trueup.recipes.evaluate_judges import scorer_spec
from trueup.types import Comparison, Ranking

FORMS: dict[str, Callable[[str], list[Choice]]] = {
    "plain": plain_choices,
    "hhh": hhh_choices,
    "hhh-text": lambda path: hhh_choices(path, "text"),
    "truthfulqa-mc1": truthfulqa_choices,
    "truthfulqa-mc2": lambda path: truthfulqa_choices(path, one=False),
}


def _pairwise(measure: str, columns: Sequence[tuple[str, np.ndarray]], clusters: Sequence[str]) -> tuple[Contrast, ...]:
    """Every two subjects on the same rows, after Holm."""
    return holm_corrected([contrast(measure, a, b, clusters) for a, b in itertools.combinations(columns, 2)])


# ── reward models ──


def evaluate_rewards(
    scorers: Sequence[str],
    pairs: str | None,
    rankings: str | None,
    machine: Machine,
    *,
    form: str = "pairs",
    seed: int = 0,
) -> Evaluation:
    """How well reward models and rules rank answers that people have ranked.

    Args:
        scorers: each as :func:`trueup.feedback.parse.open_scorer` takes it.
        pairs: file of comparisons.
        rankings: file of several answers a prompt with scores by people: the best of N.
        machine: where models run.
        form: of ``pairs``: ``pairs`` or ``hhh``.
        seed: of intervals.

    Raises:
        ConfigError: no file.
        DataError: a file without such rows.
        ScoringError: an answer that could not be scored.
    """
    if pairs is None and rankings is None:
        raise ConfigError("--data or --best-of: a file of ranked answers is needed")
    rows = [] if pairs is None else comparisons(pairs, form)
    ranked: list[Any] = [] if rankings is None else list(read_rows(rankings, wanted=Ranking).rows)
    undecided = sum(r.preference == 0.5 for r in rows)
    rows = [_ordered(r) for r in rows if r.preference != 0.5]
    subjects: list[Subject] = []
    hits: list[tuple[str, np.ndarray]] = []
    clusters: tuple[str, ...] = ()
    for name, spec in zip(_names(scorers), scorers, strict=True):
        scorer = open_scorer(scorer_spec(spec, "--reward"), device=machine.device)
        found = score_pairs(scorer, rows) if rows else None
        subjects.append(_reward_subject(name, spec, scorer, found, ranked, seed))
        if found is not None:
            hits.append((name, (np.sign(found.margin) + 1) / 2))
            clusters = found.prompts
    warnings = (f"{undecided} pairs without a better side (preference 0.5) are left out",) if undecided else ()
    evaluation = Evaluation(
        kind="reward", headline="",
        settings={"rewards": list(scorers), "pairs": pairs, "form": form, "best_of": rankings},
        subjects=tuple(subjects), contrasts=_pairwise("reward_accuracy", hits, clusters), warnings=warnings,
    )  # fmt: skip
    return evaluation.with_headline()


def _ordered(row: Comparison) -> Comparison:
    """The row with its better side first."""
    if row.preference is None or row.preference > 0.5:
        return row
    return Comparison(
        id=row.id, origin=row.origin, prompt=row.prompt, tools=row.tools, chosen=row.rejected, rejected=row.chosen
    )


def _names(scorers: Sequence[str]) -> list[str]:
    """Short names, made different by a number."""
    short = [Path(s).name if "/" in s and not s.startswith("{") else s for s in scorers]
    return [s if short.count(s) == 1 else f"{s} ({i + 1})" for i, s in enumerate(short)]


def _reward_subject(
    name: str, spec: str, scorer: Scorer, found: Margins | None, ranked: Sequence[Ranking], seed: int
) -> Subject:
    figures: list[Figure] = []
    tables: dict[str, Any] = {}
    left_out: list[str] = []
    warnings: list[str] = []
    if found is not None:
        told = pair_figures(found, seed=seed)
        figures += told.figures()
        if warning := told.warning():
            warnings.append(warning)
        try:
            honest = calibration(found, bins=BINS, seed=seed)
        except ValueError as error:
            left_out.append(str(error))
        else:
            figures += [honest.gap, honest.error, honest.brier]
            tables["reliability"] = table_of(honest.table)
    if ranked:
        figures.append(score_rankings(scorer, ranked))
    return Subject(
        name=name, source=spec, identity=scorer.identity,
        rows=(0 if found is None else len(found.margin)) + len(ranked),
        figures=tuple(figures), tables=tables, left_out=tuple(left_out), warnings=tuple(warnings),
    )  # fmt: skip


# ── questions ──


def evaluate_choices(
    models: Sequence[Contestant], questions: str, form: str, machine: Machine, *, chat: Chat = "plain",
    limit: int | None = None, skip_too_long: bool = False,
) -> Evaluation:  # fmt: skip
    """Multiple choice by log-probability.

    Args:
        models: who is asked.
        questions: file.
        form: of :data:`FORMS`.
        machine: where models run.
        chat: how a raw prompt is put: ``plain``, as published, or as a user turn.
        limit: only the first choices.
        skip_too_long: leave out questions that do not fit the context of every model, instead of refusing them.

    Raises:
        ConfigError: an unknown form.
        DataError: a row that is not of the form, or too long.
    """
    if form not in FORMS:
        raise ConfigError(f"--form: {form!r} is none of {', '.join(FORMS)}")
    choices, long = FORMS[form](questions)[:limit], set[str]()
    for who in models if len(models) > 1 else ():  # one model in memory at a time: all must be asked the same
        long |= too_long(open_sampler(who.source, machine, chat=chat).renderer, choices)
    subjects: list[Subject] = []
    columns: list[tuple[str, np.ndarray]] = []
    clusters: list[str] = []
    for who in models:
        identity, found = _asked(who, choices, long, machine, chat, skip_too_long)
        told = (*(order_figures(found) if form == "hhh" else ()), *choice_figures(found))
        subjects.append(Subject(name=who.name, source=who.source, identity=identity, rows=len(found), figures=told))
        columns.append((who.name, _credits(found)))
        clusters = [s.choice.cluster for s in found]
    evaluation = Evaluation(
        kind="choice", headline="", settings={"questions": questions, "form": form, "chat": chat, "limit": limit},
        subjects=tuple(subjects), contrasts=_pairwise("choice_sum", columns, clusters),
        warnings=(f"{len(long)} questions do not fit a model's context and are left out for all",) if long else (),
    )  # fmt: skip
    return evaluation.with_headline()


def _asked(
    who: Contestant, choices: Sequence[Choice], long: set[str], machine: Machine, chat: Chat, skip: bool
) -> tuple[str, list[Scored]]:
    """Identity of a model and what it makes of the choices; those that do not fit are added to ``long``."""
    sampler = open_sampler(who.source, machine, chat=chat)
    long |= too_long(sampler.renderer, choices)
    if long and not skip:
        raise DataError(
            f"{len(long)} questions are longer than the context of a model ({sorted(long)[0]} ...); "
            "--skip-too-long leaves them out for all models"
        )
    left = [c for c in choices if c.question not in long]
    if not left:
        raise DataError(f"--questions: of {len(choices)} there is none to ask")
    return sampler.identity, score_choices(sampler.policy, sampler.renderer, left)


def _credits(found: Sequence[Scored]) -> np.ndarray:
    return np.array([top_credit(s.logprob, s.choice.right) for s in found])


# ── held-out text ──


def documents_of(path: str) -> list[Document]:
    """Texts of a file: one a row with a ``text``; or a whole text file as one document.

    Raises:
        DataError: a row without a text, or no text at all.
    """
    place = Path(path)
    if place.is_file() and not has_known_name(place):
        whole = b"".join(chunks(place, None)).decode("utf-8", errors="replace")
        found = [Document(place.name, whole)]
    else:
        found = list(_rows_of_text(path))
    if not any(d.text.strip() for d in found):
        raise DataError(f"{path}: there is no text in it")
    return found


def _rows_of_text(path: str) -> Iterator[Document]:
    for number, record in enumerate(records(path), 1):
        origin = record.origin or f"{path}:{record.line}"
        text = None if record.fields is None else record.fields.get("text")
        if record.fields is None or not isinstance(text, str):
            raise DataError(f"{origin}: text: a text is expected, got {text!r}")
        cluster = record.fields.get("source")
        yield Document(f"{Path(path).name}#{number}", text, None if cluster is None else str(cluster))


def evaluate_perplexity(
    models: Sequence[Contestant], data: str, machine: Machine, *, window: int | None = None, stride: int | None = None,
    limit: int | None = None, seed: int = 0,
) -> Evaluation:  # fmt: skip
    """Perplexity on held-out text.

    Args:
        models: who reads.
        data: the texts.
        machine: where models run.
        window: tokens seen at once; None: 1024, or the shortest context of the models.
        stride: from one window to the next; None: half a window.
        limit: only the first documents.
        seed: of intervals.

    Raises:
        ConfigError: a window longer than a context, or a stride that makes no sense.
        DataError: no text.
    """
    documents = documents_of(data)[:limit]
    rooms = [context_of(open_sampler(who.source, machine).policy) for who in models]
    room = min(rooms)
    width = min(1024, room) if window is None else window
    step = width // 2 if stride is None else stride
    if width > room or not 1 <= step < width:
        raise ConfigError(f"--window, --stride: 1 <= stride < window <= {room} is needed, got {step} and {width}")
    subjects: list[Subject] = []
    columns: list[tuple[str, np.ndarray]] = []
    for who in models:  # one in memory at a time
        identity, found = _read(who, documents, width, step, machine)
        told = perplexity_figures(found, seed=seed)
        subjects.append(Subject(name=who.name, source=who.source, identity=identity, rows=len(documents), figures=told))
        columns.append((who.name, found.nats / found.bytes / np.log(2)))
    clusters = [d.cluster or d.id for d in documents]
    evaluation = Evaluation(
        kind="perplexity", headline="", settings={"data": data, "window": width, "stride": step, "limit": limit},
        subjects=tuple(subjects), contrasts=_pairwise("bits_per_byte_by_document", columns, clusters),
    )  # fmt: skip
    return evaluation.with_headline()


def _read(
    who: Contestant, documents: Sequence[Document], window: int, stride: int, machine: Machine
) -> tuple[str, Surprise]:
    """Identity of a model and how surprised it is."""
    sampler = open_sampler(who.source, machine)
    return sampler.identity, surprise(sampler.policy, sampler.tokenizer, documents, window=window, stride=stride)
