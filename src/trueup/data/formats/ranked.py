"""Several answers to one prompt with scores or ranks, and single scored answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trueup.data.fields import (
    Fields,
    RowFault,
    Source,
    boolean,
    common,
    completion,
    kind_of,
    number,
    sequence,
    string,
    text,
    turns,
    user,
)
from trueup.data.formats.base import Format, is_text, is_transcript, is_turns, only_turns, written
from trueup.data.formats.preference import as_answer
from trueup.data.formats.transcripts import read_transcript
from trueup.types import Ranking, Rating, Text


def _score(value: Any, where: str, source: Source) -> float:
    return number({where: value}, where, source)


def _signed(sign: float, score: float) -> float:
    return sign * score + 0.0  # never -0.0


def _answers(values: list[Any], prompt: Text, field: str, source: Source) -> tuple[Text, ...]:
    answers = []
    for index, value in enumerate(values):
        where = f"{field}[{index}]"
        answer = text({where: value}, where, source)
        answers.append(completion(answer if isinstance(prompt, str) else as_answer(answer), where))
    if len({type(answer) for answer in answers}) > 1 or (isinstance(prompt, str) and not isinstance(answers[0], str)):
        raise RowFault(field, "must be of the same kind as prompt: all strings or all lists of turns")
    return tuple(answers)


def _listed(column: str, sign: float) -> Callable[[Fields, Source], Ranking]:
    def parse(row: Fields, source: Source) -> Ranking:
        prompt = text(row, "prompt", source, blank=True)
        answers, figures = sequence(row, "completions", source), sequence(row, column, source)
        if len(answers) != len(figures):
            raise RowFault(column, f"has {len(figures)} entries; completions has {len(answers)}")
        scores = (sign * _score(value, f"{column}[{index}]", source) for index, value in enumerate(figures))
        completions = _answers(answers, prompt, "completions", source)
        return Ranking(prompt=prompt, completions=completions, scores=tuple(scores), **common(row, source))

    return parse


def _write_listed(column: str, sign: float) -> Callable[[Ranking], dict[str, Any]]:
    def write(row: Ranking) -> dict[str, Any]:
        figures = [_signed(sign, score) for score in row.scores]
        return written(row, prompt=row.prompt, completions=row.completions, **{column: figures})

    return write


def _entries(row: Fields, key: str, source: Source) -> list[Mapping[str, Any]]:
    values = sequence(row, key, source)
    for index, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise RowFault(f"{key}[{index}]", f"must be an object, not {kind_of(value)}")
    return values


def _parse_nemo(row: Fields, source: Source) -> Ranking:
    prompt = turns(row.get("context"), "context", source)
    answers, scores = [], []
    for index, entry in enumerate(_entries(row, "completions", source)):
        where = f"completions[{index}]"
        answers.append(completion(turns(entry.get("completion"), f"{where}.completion", source), where))
        scores.append(-_score(entry.get("rank"), f"{where}.rank", source))
    return Ranking(prompt=prompt, completions=tuple(answers), scores=tuple(scores), **common(row, source))


def _write_nemo(row: Ranking) -> dict[str, Any]:
    entries = [
        {"rank": _signed(-1.0, score), "completion": only_turns(answer, "completions")}
        for answer, score in zip(row.completions, row.scores, strict=True)
    ]
    return written(row, context=only_turns(row.prompt, "prompt"), completions=entries)


def _parse_nectar(row: Fields, source: Source) -> Ranking:
    asked = string(row, "prompt")
    prompt = read_transcript(asked, "prompt", asks=True) if is_transcript(asked) else (user(asked),)
    answers, scores = [], []
    for index, entry in enumerate(_entries(row, "answers", source)):
        where = f"answers[{index}]"
        said = string({f"{where}.answer": entry.get("answer")}, f"{where}.answer")
        answers.append(as_answer(said))
        scores.append(-_score(entry.get("rank"), f"{where}.rank", source))
    return Ranking(prompt=prompt, completions=tuple(answers), scores=tuple(scores), **common(row, source))


def _sole_text(value: Text, role: str, field: str) -> str:
    said = only_turns(value, field)
    if len(said) != 1 or said[0]["role"] != role or set(said[0]) != {"role", "content"}:
        raise RowFault(field, f"the format holds the text of one {role} turn only")
    return said[0]["content"]


def _write_nectar(row: Ranking) -> dict[str, Any]:
    entries = [
        {"answer": _sole_text(answer, "assistant", "completions"), "rank": _signed(-1.0, score)}
        for answer, score in zip(row.completions, row.scores, strict=True)
    ]
    return written(row, prompt=_sole_text(row.prompt, "user", "prompt"), answers=entries)


def _parse_shp(row: Fields, source: Source) -> Ranking:
    scores = tuple(number(row, f"score_{side}", source) for side in "AB")
    first_better = boolean(row, "labels", source)
    if first_better != (scores[0] > scores[1]) and scores[0] != scores[1]:
        raise RowFault("labels", f"says {int(first_better)}, but the scores are {scores[0]:g} and {scores[1]:g}")
    answers = tuple(as_answer(string(row, f"human_ref_{side}")) for side in "AB")
    return Ranking(prompt=(user(string(row, "history")),), completions=answers, scores=scores, **common(row, source))


def _write_shp(row: Ranking) -> dict[str, Any]:
    if len(row.scores) != 2:
        raise RowFault("completions", f"the format holds two answers, not {len(row.scores)}")
    first, second = (_sole_text(answer, "assistant", "completions") for answer in row.completions)
    return written(
        row,
        history=_sole_text(row.prompt, "user", "prompt"),
        human_ref_A=first,
        human_ref_B=second,
        labels=int(row.scores[0] > row.scores[1]),
        score_A=row.scores[0],
        score_B=row.scores[1],
    )


def _lone(answer: str, figure: str) -> Callable[[Fields, Source], Ranking]:
    def parse(row: Fields, source: Source) -> Ranking:
        prompt = text(row, "prompt", source, blank=True)
        completions = _answers([row.get(answer)], prompt, answer, source)
        score = number(row, figure, source)
        return Ranking(prompt=prompt, completions=completions, scores=(score,), **common(row, source))

    return parse


def _write_lone(answer: str, figure: str) -> Callable[[Ranking], dict[str, Any]]:
    def write(row: Ranking) -> dict[str, Any]:
        if len(row.scores) != 1:
            raise RowFault("completions", f"the format holds one answer a row, not {len(row.scores)}")
        return written(row, prompt=row.prompt, **{answer: row.completions[0], figure: row.scores[0]})

    return write


def _fits_listed(column: str) -> Callable[[Fields], bool]:
    return lambda row: all(isinstance(row[key], (list, tuple)) for key in ("completions", column))


SCORED = Format(
    name="scored",
    title="prompt, completions and their scores (higher is better)",
    makes=Ranking,
    required=("prompt", "completions", "scores"),
    fits=_fits_listed("scores"),
    parse=_listed("scores", 1.0),
    write=_write_listed("scores", 1.0),
)
RANKED = Format(
    name="ranked",
    title="prompt, completions and their ranks (lower is better)",
    makes=Ranking,
    required=("prompt", "completions", "ranks"),
    fits=_fits_listed("ranks"),
    parse=_listed("ranks", -1.0),
    write=_write_listed("ranks", -1.0),
)
NEMO = Format(
    name="nemo",
    title="NeMo-RL: context, and completions with a rank (lower is better)",
    makes=Ranking,
    required=("context", "completions"),
    fits=lambda row: is_turns(row["context"]) and is_turns(row["completions"], "rank", "completion"),
    parse=_parse_nemo,
    write=_write_nemo,
)
NECTAR = Format(
    name="nectar",
    title="Nectar: prompt, and answers with a rank (lower is better)",
    makes=Ranking,
    required=("prompt", "answers"),
    fits=lambda row: is_turns(row["answers"], "answer", "rank"),
    parse=_parse_nectar,
    write=_write_nectar,
)
SHP = Format(
    name="shp",
    title="SHP: history, human_ref_A, human_ref_B, labels, score_A, score_B",
    makes=Ranking,
    required=("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"),
    parse=_parse_shp,
    write=_write_shp,
)
SCORED_ANSWER = Format(
    name="scored-answer",
    title="prompt, one completion and its score; rows with the same prompt belong together",
    makes=Ranking,
    required=("prompt", "completion", "score"),
    foreign=("label",),
    fits=lambda row: is_text(row["completion"]) or is_turns(row["completion"]),
    parse=_lone("completion", "score"),
    write=_write_lone("completion", "score"),
    lone=True,
)
HELPSTEER = Format(
    name="helpsteer",
    title="HelpSteer: prompt, response and helpfulness; rows with the same prompt belong together",
    makes=Ranking,
    required=("prompt", "response", "helpfulness"),
    fits=lambda row: is_text(row["response"]),
    parse=_lone("response", "helpfulness"),
    write=_write_lone("response", "helpfulness"),
    lone=True,
)


def _parse_steps(row: Fields, source: Source) -> tuple[Rating, ...]:
    """One rating a step: the step given the prompt and the steps before it, each ended by a line feed."""
    prompt = string(row, "prompt", blank=True)
    steps, labels = sequence(row, "completions", source), sequence(row, "labels", source)
    if len(steps) != len(labels):
        raise RowFault("labels", f"has {len(labels)} entries; completions has {len(steps)}")
    rest = common(row, source)
    ratings = []
    for index, (step, label) in enumerate(zip(steps, labels, strict=True)):
        said = string({f"completions[{index}]": step}, f"completions[{index}]")
        good = boolean({f"labels[{index}]": label}, f"labels[{index}]", source)
        ratings.append(
            Rating(**{**rest, "id": f"{rest['id']}#{index + 1}"}, prompt=prompt, completion=said, label=good)
        )
        prompt = f"{prompt}{said}\n"
    return tuple(ratings)


def _write_steps(row: Rating) -> dict[str, Any]:
    raise RowFault("completion", "is one step; a stepwise row is written from all of its steps, which is not done here")


STEPWISE = Format(
    name="stepwise",
    title="prompt, completions (steps) and labels: each step becomes a labelled completion",
    makes=Rating,
    required=("prompt", "completions", "labels"),
    fits=_fits_listed("labels"),
    parse=_parse_steps,
    write=_write_steps,
)
FORMATS = (SCORED, RANKED, NEMO, NECTAR, SHP, SCORED_ANSWER, HELPSTEER, STEPWISE)
