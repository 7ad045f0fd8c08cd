"""Alpaca rows: instruction, input, output, system and history; with pairs and labels as LLaMA-Factory has them."""

from __future__ import annotations

from typing import Any

from trueup.data.fields import (
    Fields,
    RowFault,
    Source,
    assistant,
    boolean,
    common,
    decoded,
    given,
    optional_string,
    string,
    system,
    user,
)
from trueup.data.formats.base import Format, comparison, is_text, only_turns, written
from trueup.data.formats.preference import STRENGTH, strength
from trueup.types import Comparison, Example, Rating, Text, Turn

_ASKED = ("input", "system", "history")


def _history(row: Fields, source: Source) -> list[Turn]:
    past = decoded(given(row, "history"), source) or []
    if not isinstance(past, (list, tuple)):
        raise RowFault("history", "must be a list of [question, answer] pairs")
    turns: list[Turn] = []
    for index, pair in enumerate(past):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(said, str) for said in pair):
            raise RowFault(f"history[{index}]", "must be a pair of strings: question, answer")
        turns += [user(pair[0]), assistant(pair[1])]
    return turns


def _prompt(row: Fields, source: Source) -> tuple[Turn, ...]:
    """System, history, then instruction and input as one user turn with a line feed between them."""
    parts = [string(row, "instruction", blank=True), optional_string(row, "input") or ""]
    question = "\n".join(part for part in parts if part)
    if not question.strip():
        raise RowFault("instruction", "is empty, and so is input")
    return (*system(optional_string(row, "system")), *_history(row, source), user(question))


def _answer(row: Fields, key: str) -> tuple[Turn, ...]:
    return (assistant(string(row, key)),)


def _plain(item: Turn, role: str, field: str) -> str:
    if item["role"] != role or set(item) != {"role", "content"}:
        raise RowFault(
            field,
            f"Alpaca rows hold questions and answers in turn, as text; here stands a {item['role']} "
            f"turn where one of the {role} is due",
        )
    return item["content"]


def _asked(prompt: Text) -> dict[str, Any]:
    turns = list(only_turns(prompt, "prompt"))
    fields: dict[str, Any] = {}
    if turns and turns[0]["role"] == "system":
        fields["system"] = _plain(turns.pop(0), "system", "prompt")
    if len(turns) % 2 == 0:
        raise RowFault("prompt", "an Alpaca row ends its prompt with a question")
    past = [
        [_plain(turns[index], "user", "prompt"), _plain(turns[index + 1], "assistant", "prompt")]
        for index in range(0, len(turns) - 1, 2)
    ]
    fields |= {"instruction": _plain(turns[-1], "user", "prompt"), "input": ""}
    return {**fields, "history": past} if past else fields


def _answered(value: Text, field: str) -> str:
    turns = only_turns(value, field)
    if len(turns) != 1:
        raise RowFault(field, f"an Alpaca row holds one answer, not {len(turns)} turns")
    return _plain(turns[0], "assistant", field)


def _parse(row: Fields, source: Source) -> Example:
    return Example(prompt=_prompt(row, source), completion=_answer(row, "output"), **common(row, source))


def _parse_label(row: Fields, source: Source) -> Rating:
    label = boolean(row, "kto_tag", source)
    return Rating(prompt=_prompt(row, source), completion=_answer(row, "output"), label=label, **common(row, source))


def _parse_pair(row: Fields, source: Source) -> Comparison:
    sides = (_answer(row, key) for key in ("chosen", "rejected"))
    return comparison(_prompt(row, source), *sides, **common(row, source), **strength(row, source))


def _write_pair(row: Comparison) -> dict[str, Any]:
    sides = {"chosen": _answered(row.chosen, "chosen"), "rejected": _answered(row.rejected, "rejected")}
    return written(row, **_asked(row.prompt), **sides, margin=row.margin, preference=row.preference)


ALPACA = Format(
    name="alpaca",
    title="instruction, input, output (and system, history)",
    makes=Example,
    required=("instruction", "output"),
    optional=_ASKED,
    foreign=("chosen", "rejected", "kto_tag"),
    fits=lambda row: is_text(row["instruction"]) and is_text(row["output"]),
    parse=_parse,
    write=lambda row: written(row, **_asked(row.prompt), output=_answered(row.completion, "completion")),
)
ALPACA_PAIR = Format(
    name="alpaca-preference",
    title="instruction, input, chosen, rejected",
    makes=Comparison,
    required=("instruction", "chosen", "rejected"),
    optional=(*_ASKED, *STRENGTH),
    foreign=("prompt",),
    fits=lambda row: all(is_text(row[key]) for key in ("instruction", "chosen", "rejected")),
    parse=_parse_pair,
    write=_write_pair,
)
ALPACA_LABEL = Format(
    name="alpaca-kto",
    title="instruction, input, output and kto_tag",
    makes=Rating,
    required=("instruction", "output", "kto_tag"),
    optional=_ASKED,
    fits=lambda row: is_text(row["instruction"]) and is_text(row["output"]),
    parse=_parse_label,
    write=lambda row: written(
        row, **_asked(row.prompt), output=_answered(row.completion, "completion"), kto_tag=row.label
    ),
)
FORMATS = (ALPACA, ALPACA_PAIR, ALPACA_LABEL)
