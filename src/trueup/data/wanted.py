"""From the row class a file gives to the one a method needs; the table is in ``docs/formats.md``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trueup.data.fields import RowFault, completion
from trueup.errors import DataError
from trueup.types import AnyRow, Comparison, Example, Prompt, Ranking, Rating, Row, Text


def _shared(row: Row, suffix: str = "") -> dict[str, Any]:
    return {"id": row.id + suffix, "origin": row.origin, "prompt": row.prompt, "tools": row.tools}


def _ordered(row: Comparison) -> tuple[Text, Text]:
    """The better and the worse side of a pair."""
    probability = 1.0 if row.preference is None else row.preference
    if probability == 0.5:
        raise RowFault("preference", "is 0.5: a tie has no better side")
    return (row.chosen, row.rejected) if probability > 0.5 else (row.rejected, row.chosen)


def _pair_to_example(row: Comparison) -> list[AnyRow]:
    return [Example(**_shared(row), completion=_ordered(row)[0])]


def _pair_to_ratings(row: Comparison) -> list[AnyRow]:
    better, worse = _ordered(row)
    return [
        Rating(**_shared(row, "#chosen"), completion=better, label=True),
        Rating(**_shared(row, "#rejected"), completion=worse, label=False),
    ]


def _to_prompt(row: Row) -> list[AnyRow]:
    """What the row asks; the completion of an example is kept as the right answer."""
    if not row.prompt or (isinstance(row.prompt, str) and not row.prompt.strip()):
        raise RowFault("prompt", "is empty: the row holds no prompt of its own")
    answer = _plain_answer(row.completion) if isinstance(row, Example) else None
    return [Prompt(**_shared(row), meta={} if answer is None else {"answer": answer})]


def _plain_answer(text: Text) -> str | None:
    """A completion of one turn as a string."""
    if isinstance(text, str):
        return text
    content = text[0].get("content") if len(text) == 1 else None
    return content if isinstance(content, str) else None


def _rating_to_example(row: Rating) -> list[AnyRow]:
    if not row.label:
        raise RowFault("label", "is false: only desirable completions are imitated")
    return [Example(**_shared(row), completion=row.completion)]


def _ends(row: Ranking) -> tuple[int, int]:
    scores = row.scores
    if max(scores) == min(scores):
        few = "no second completion of this prompt" if len(scores) < 2 else "all completions have the same score"
        raise RowFault("scores", f"{few}: nothing to prefer")
    return scores.index(max(scores)), scores.index(min(scores))


def _ranking_to_pair(row: Ranking) -> list[AnyRow]:
    best, worst = _ends(row)
    chosen, rejected = row.completions[best], row.completions[worst]
    if chosen == rejected:
        raise RowFault("completions", "the best and the worst are identical")
    return [Comparison(**_shared(row), chosen=chosen, rejected=rejected)]


def _ranking_to_example(row: Ranking) -> list[AnyRow]:
    best = row.scores.index(max(row.scores))
    return [Example(**_shared(row), completion=completion(row.completions[best], "completions"))]


def _pair_to_ranking(row: Comparison) -> list[AnyRow]:
    if row.preference not in (None, 1.0):
        raise RowFault("preference", "is a probability; scores cannot say it")
    if row.margin == 0:
        raise RowFault("margin", "is 0: as scores this would be a tie")
    score = 1.0 if row.margin is None else row.margin
    return [Ranking(**_shared(row), completions=(row.chosen, row.rejected), scores=(score, 0.0))]


TURNS_INTO: dict[tuple[type[Row], type[Row]], Callable[[Any], list[AnyRow]]] = {
    (Comparison, Example): _pair_to_example,
    (Comparison, Rating): _pair_to_ratings,
    (Comparison, Prompt): _to_prompt,
    (Comparison, Ranking): _pair_to_ranking,
    (Rating, Example): _rating_to_example,
    (Rating, Prompt): _to_prompt,
    (Example, Prompt): _to_prompt,
    (Ranking, Comparison): _ranking_to_pair,
    (Ranking, Example): _ranking_to_example,
    (Ranking, Prompt): _to_prompt,
}
_LACKS = {
    Comparison: "a chosen and a rejected completion of one prompt",
    Rating: "a completion with a true or false label",
    Example: "a completion",
    Prompt: "a prompt",
    Ranking: "scored completions of one prompt",
}


def check_possible(makes: type[Row], wanted: type[Row] | None, what: str) -> None:
    """Whether rows of one class can become rows of another.

    Raises:
        DataError: they lack what the other needs.
    """
    if wanted not in (None, makes) and (makes, wanted) not in TURNS_INTO:
        raise DataError(f"{what} holds no {wanted.__name__} rows: they need {_LACKS[wanted]}")


def turned(row: AnyRow, wanted: type[Row] | None) -> list[AnyRow]:
    """The row as rows of the wanted class.

    Raises:
        RowFault: this row does not hold what they need.
    """
    if wanted is None or isinstance(row, wanted):
        return [row]
    return TURNS_INTO[type(row), wanted](row)


def group_key(row: Ranking) -> str:
    """Equal for rows that answer the same prompt with the same tools."""
    return json.dumps([row.prompt, row.tools], sort_keys=True, default=str)


def gathered(rows: list[Ranking]) -> Ranking:
    """One ranking of the answers of several rows to one prompt; it has the id and origin of the first."""
    return replace(
        rows[0],
        completions=tuple(answer for row in rows for answer in row.completions),
        scores=tuple(score for row in rows for score in row.scores),
    )
