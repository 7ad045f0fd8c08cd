"""What stands in a data file, for the advisor: kinds of rows, contradictions, lengths, and rows to estimate with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trueup.data.read import read_rows
from trueup.data.render import CompletionTokens, PairTokens, Renderer, RowRejected
from trueup.feedback.rules import final_number
from trueup.recipes.memory import Tokens
from trueup.train.methods import Method
from trueup.types import AnyRow, Comparison, Example, Prompt, Ranking, Rating, Text

SAMPLE = 512  # rows that are rendered; the others are taken to be like them
LONGEST = 32  # the longest rows by characters are rendered besides, to know how long rows get
CHARACTERS = 4  # a token, where there is no tokenizer to count with
SHORT_ANSWER = 4  # words that a right answer may have to be compared as a whole
VERIFIABLE = 0.9  # share of rows whose answer must be checkable


@dataclass(frozen=True, slots=True)
class Survey:
    """What a file holds; see :class:`trueup.recipes.advise.Facts` for the fields of the same name.

    Attributes:
        unusable: rows that no method can use, and are not counted above.
        problem: of the first of them.
    """

    pairs: int = 0
    labels: int = 0
    examples: int = 0
    prompts: int = 0
    desirable: float | None = None
    contradicted: float = 0.0
    repeated: float = 0.0
    longer_chosen: float | None = None
    rule: str | None = None
    unusable: int = 0
    problem: str | None = None

    def lines(self) -> list[str]:
        """For a person."""
        held = [(self.pairs, "pairs"), (self.labels, "labelled answers"), (self.examples, "answers to imitate"),
                (self.prompts, "prompts")]  # fmt: skip
        out = ["data: " + ", ".join(f"{n} {what}" for n, what in held if n)]
        if self.longer_chosen is not None:
            out.append(
                f"  {self.contradicted:.1%} of pairs are contradicted by another, {self.repeated:.1%} repeat one; the "
                f"longer answer is the chosen one in {self.longer_chosen:.1%}"
            )
        if self.desirable is not None:
            out.append(f"  {self.desirable:.1%} of the labels say good")
        if self.rule is not None:
            out.append(f"  right answers are known (rule:{self.rule})")
        if self.unusable:
            out.append(f"  {self.unusable} rows cannot be used, and are left out (data.bad_rows: skip): {self.problem}")
        return out


def survey(path: str, **reading: Any) -> Survey:
    """Reads a file and counts; rows that cannot be used are left out and told.

    Args:
        path: of the file.
        **reading: ``columns``, ``format``, ``split`` and ``bad_rows`` of :func:`trueup.data.read.read_rows`.

    Raises:
        DataError: it cannot be read, no row of it can be used, or ``bad_rows`` is ``error`` and some cannot.
    """
    report = read_rows(path, **{"bad_rows": "skip", **reading})
    rows = report.rows
    pairs = [r for r in rows if isinstance(r, Comparison)]
    labels = [r.label for r in rows if isinstance(r, Rating)]
    rankings = sum(isinstance(r, Ranking) for r in rows)
    chosen = [sides for r in pairs if (sides := _sides(r)) is not None]
    return Survey(
        pairs=len(pairs) + rankings,
        labels=len(labels),
        examples=sum(isinstance(r, Example) for r in rows),
        prompts=sum(isinstance(r, Prompt) for r in rows),
        desirable=sum(labels) / len(labels) if labels else None,
        contradicted=contradicted(chosen),
        repeated=1 - len(set(chosen)) / len(chosen) if chosen else 0.0,
        longer_chosen=_longer(chosen),
        rule=_rule([a for r in rows if (a := _answer(r)) is not None], len(rows)),
        unusable=report.rejected,
        problem=str(report.problems[0]) if report.problems else None,
    )


def _sides(row: Comparison) -> tuple[str, str, str] | None:
    """Prompt, better and worse answer as text; None for a tie."""
    p = 1.0 if row.preference is None else row.preference
    if p == 0.5:
        return None
    better, worse = (row.chosen, row.rejected) if p > 0.5 else (row.rejected, row.chosen)
    return _text(row.prompt), _text(better), _text(worse)


def _text(text: Text) -> str:
    return text if isinstance(text, str) else json.dumps(text, sort_keys=True, default=str)


def contradicted(sides: Sequence[tuple[str, str, str]]) -> float:
    """Share of pairs (prompt, better, worse) of which the reverse stands there too."""
    if not sides:
        return 0.0
    known = set(sides)
    return sum((prompt, worse, better) in known for prompt, better, worse in sides) / len(sides)


def _longer(sides: Sequence[tuple[str, str, str]]) -> float | None:
    """Share of pairs whose longer answer is the better one, in characters; ties count half."""
    if not sides:
        return None
    return sum(1.0 if len(b) > len(w) else 0.5 * (len(b) == len(w)) for _, b, w in sides) / len(sides)


def _answer(row: AnyRow) -> str | None:
    """A right answer that a rule may compare with."""
    if isinstance(row, Prompt):
        return None if row.meta.get("answer") is None else str(row.meta["answer"])
    if not isinstance(row, Example):
        return None
    text = row.completion
    content = text if isinstance(text, str) else (text[0].get("content") if len(text) == 1 else None)
    return content if isinstance(content, str) else None


def _rule(answers: Sequence[str], rows: int) -> str | None:
    """The bundled rule that can tell right from wrong by these answers; None: none can."""
    if not answers or len(answers) < VERIFIABLE * rows:
        return None
    brief = [a for a in answers if len(a.split()) <= SHORT_ANSWER]
    final = [a for a in answers if final_number(a) is not None and ("####" in a or "\\boxed" in a or a in brief)]
    if len(final) >= VERIFIABLE * rows:
        return "exact_number"
    return "exact_answer" if len(brief) >= VERIFIABLE * rows else None


# ── rows to estimate with ──


@dataclass(frozen=True, slots=True)
class Lengths:
    """Rows for an estimate.

    Attributes:
        rows: as many as the file has for the method; some stand there several times.
        longest: tokens of the longest.
    """

    rows: list[Tokens]
    longest: int


def rows_for(
    path: str, method: Method, tokenizer: PreTrainedTokenizerBase | None, reading: Mapping[str, Any] | None = None
) -> Lengths:
    """Rows as a method sees them: an even sample and the longest, rendered; the sample stands in for the rest.

    Args:
        path: of the file.
        method: whose rows.
        tokenizer: None: tokens are guessed from characters.
        reading: as for :func:`survey`.

    Raises:
        DataError: the file holds nothing for the method.
    """
    found: list[Any] = list(read_rows(path, **{"bad_rows": "skip", **(reading or {})}, wanted=method.row).rows)
    by_length = sorted(range(len(found)), key=lambda i: -_characters(found[i]))
    even = np.linspace(0, len(found) - 1, min(SAMPLE, len(found))).astype(int).tolist()
    take = _counted if tokenizer is None else _rendered(Renderer(tokenizer, max_length=2**20))
    usual = [t for i in even if (t := take(found[i])) is not None]
    longest = [t for i in by_length[:LONGEST] if (t := take(found[i])) is not None]
    times = -(-len(found) // max(1, len(usual)))
    rows = [*longest, *usual * times][: len(found)]
    return Lengths(rows, max((longest_side(t) for t in rows), default=0))


def assumed(method: Method, count: int, prompt: int, answer: int) -> list[Tokens]:
    """Rows of one length, where there is no data yet.

    Args:
        method: whose rows.
        count: of rows.
        prompt: tokens of each.
        answer: tokens of each.
    """
    return [_shaped(method.row, prompt, answer, answer)] * count


def longest_side(tokens: Tokens) -> int:
    """Tokens of prompt and answer."""
    return max(len(tokens.chosen.ids), len(tokens.rejected.ids)) if isinstance(tokens, PairTokens) else len(tokens.ids)


def _characters(row: AnyRow) -> int:
    return sum(len(_text(t)) for t in (row.prompt, *_answers(row)))


def _answers(row: AnyRow) -> tuple[Text, ...]:
    if isinstance(row, Comparison):
        return row.chosen, row.rejected
    return (row.completion,) if isinstance(row, Rating | Example) else ()


def _counted(row: AnyRow) -> Tokens:
    """By characters."""
    sizes = [max(1, len(_text(t)) // CHARACTERS) for t in (row.prompt, *_answers(row))]
    return _shaped(type(row), sizes[0], *([*sizes[1:], 1, 1][:2]))


def _shaped(kind: type[Any], prompt: int, first: int, second: int) -> Tokens:
    def one(answer: int) -> CompletionTokens:
        mask = np.arange(prompt + answer) >= prompt
        return CompletionTokens("assumed", np.zeros(prompt + answer, np.int32), mask, label=True)

    if kind is Comparison:
        return PairTokens("assumed", one(first), one(second), prompt)
    return one(0) if kind is Prompt else one(first)


def _rendered(renderer: Renderer) -> Any:
    def take(row: Any) -> Tokens | None:
        try:
            if isinstance(row, Prompt):
                ids = renderer.prompt(row)
                return CompletionTokens(row.id, ids, np.zeros(len(ids), dtype=bool))
            return renderer.pair(row) if isinstance(row, Comparison) else renderer.completion(row)
        except RowRejected:  # training will tell of it; an estimate can do without the row
            return None

    return take


def absolute(path: str) -> str:
    """A path that means the same from any folder; a hub id stays."""
    return str(Path(path).resolve()) if Path(path).exists() else path
