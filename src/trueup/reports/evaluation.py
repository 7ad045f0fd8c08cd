"""A folder of `trueup eval` as the report sees it: ``eval.json`` and the answers. Nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueup.errors import RunError
from trueup.reports.numbers import alike, tidy
from trueup.reports.read import at, read_object, read_records, real

RESULT = "eval.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Found:
    """One figure of one subject: its mean with the 95 % interval and what it rests on."""

    name: str
    mean: float
    low: float | None
    high: float | None
    n: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Who:
    """One subject of an evaluation: figures, and what stands against believing them."""

    name: str
    figures: Sequence[Found]
    left_out: Sequence[str]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Contrasted:
    """Two subjects on the same prompts: the paired figure, what it would be if they were equal, and the verdict."""

    measure: str
    first: str
    second: str
    figure: Found
    even: float
    better: int
    worse: int
    p_holm: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Given:
    """One answer of one subject; ``key`` names its prompt and number, the same for all subjects."""

    model: str
    key: str
    prompt: str
    answer: str
    truncated: bool | None
    tokens: int | None
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """An evaluation, read; ``problems`` says what is missing or damaged."""

    name: str
    kind: str
    headline: str
    created: str
    subjects: Sequence[Who]
    contrasts: Sequence[Contrasted]
    ratings: Sequence[Found]
    warnings: Sequence[str]
    answers: Sequence[Given]
    problems: Sequence[str]


def evaluations_of(run: Path) -> list[EvaluationView]:
    """The evaluations that lie in a run folder: ``eval.json`` itself, or ``NAME/eval.json``."""
    places = [p.parent for p in (run / RESULT, *sorted(run.glob(f"*/{RESULT}"))) if p.is_file()]
    return [read_evaluation(p) for p in places]


def read_evaluation(folder: Path) -> EvaluationView:
    """Reads the folder of an evaluation.

    Raises:
        RunError: no evaluation, not finished, or of another version.
    """
    if not (folder / RESULT).is_file():
        begun = (folder / "journal").is_dir()
        why = (
            "not finished: give `trueup eval` the same words again"
            if begun
            else "no evaluation (it holds no eval.json)"
        )
        raise RunError(f"{folder}: {why}")
    problems: list[str] = []
    told = read_object(folder / RESULT, problems, "nothing was found")
    if problems:
        raise RunError(f"{folder / RESULT}: {problems[0]}")
    if told.get("schema") != SCHEMA:
        raise RunError(
            f"{folder / RESULT}: schema {told.get('schema')!r}, written by trueup "
            f"{at(told, 'environment', 'versions', 'trueup') or 'of unknown version'}; this one reads schema {SCHEMA}"
        )
    name = str(at(told, "files", "answers") or "answers.jsonl")
    path = folder / Path(name).name  # a file of the folder, whatever the record says
    answers = list(map(_given, read_records(path, problems, ""))) if path.is_file() else []
    return EvaluationView(
        name=folder.resolve().name,
        kind=_text(told.get("kind")),
        headline=_text(told.get("headline")),
        created=_text(told.get("created")),
        subjects=[w for w in map(_who, _list(told.get("subjects"))) if w is not None],
        contrasts=[c for c in map(_contrast, _list(told.get("contrasts"))) if c is not None],
        ratings=[f for f in map(_figure, _list(told.get("ratings"))) if f is not None],
        warnings=_texts(told.get("warnings")) + _judge_warnings(told.get("judges")),
        answers=[a for a in answers if a is not None],
        problems=problems,
    )


def interval_words(found: Found) -> tuple[str, str]:
    """A figure and its interval for a table."""
    if found.low is None or found.high is None:
        return tidy(found.mean), "no interval"
    mean, low, high = alike([found.mean, found.low, found.high])
    return mean, f"{low} to {high}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    return [v for v in _list(value) if isinstance(v, str)]


def _judge_warnings(value: Any) -> list[str]:
    return [f"{_text(at(j, 'identity'))}: {w}" for j in _list(value) for w in _texts(at(j, "warnings"))]


def _figure(value: Any) -> Found | None:
    mean, n = real(at(value, "mean")), real(at(value, "n"))
    if mean is None or not isinstance(at(value, "name"), str):
        return None
    ends = (real(at(value, "low")), real(at(value, "high")))
    return Found(value["name"], mean, *ends, None if n is None else int(n), _text(value.get("note")))


def _who(value: Any) -> Who | None:
    if not isinstance(at(value, "name"), str):
        return None
    figures = [f for f in map(_figure, _list(value.get("figures"))) if f is not None]
    return Who(value["name"], figures, _texts(value.get("left_out")), _texts(value.get("warnings")))


def _contrast(value: Any) -> Contrasted | None:
    figure, even = _figure(at(value, "figure")), real(at(value, "even"))
    if figure is None or even is None:
        return None
    better, worse = (int(real(value.get(k)) or 0) for k in ("better", "worse"))
    measure, first, second, verdict = (_text(value.get(k)) for k in ("measure", "first", "second", "verdict"))
    return Contrasted(measure, first, second, figure, even, better, worse, real(value.get("p_holm")), verdict)


def _given(value: Mapping[str, Any]) -> Given | None:
    model, answer = value.get("model"), value.get("answer")
    if not isinstance(model, str) or not isinstance(answer, str):
        return None
    tokens, scores, prompt = real(value.get("tokens")), value.get("scores"), value.get("prompt")
    cut = value.get("truncated")
    found = {k: real(v) for k, v in scores.items()} if isinstance(scores, Mapping) else {}
    return Given(
        model=model,
        key=f"{value.get('id', '')} {value.get('index', 0)}",
        prompt=prompt if isinstance(prompt, str) else _turns(prompt),
        answer=answer,
        truncated=cut if isinstance(cut, bool) else None,
        tokens=None if tokens is None else int(tokens),
        scores={k: v for k, v in found.items() if v is not None},
    )


def _turns(prompt: Any) -> str:
    """The content of the last turn of a conversation."""
    contents = [at(t, "content") for t in _list(prompt)]
    return next((c for c in reversed(contents) if isinstance(c, str)), "")
