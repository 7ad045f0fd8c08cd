"""Pair formats of other tools: OpenAI preference files, ms-swift, Intel orca and judged output pairs."""

from __future__ import annotations

from typing import Any

from trueup.data.fields import (
    Fields,
    RowFault,
    Source,
    assistant,
    common,
    mapping,
    number,
    optional_string,
    string,
    system,
    tools,
    turns,
    user,
)
from trueup.data.formats.base import (
    Format,
    comparison,
    is_text,
    is_turns,
    listed,
    only_turns,
    split_implicit,
    written,
)
from trueup.data.formats.preference import STRENGTH, as_answer, strength, whole
from trueup.types import Comparison, Text, Turn

_OPENAI = ("preferred_output", "non_preferred_output")


def _parse_openai(row: Fields, source: Source) -> Comparison:
    given = mapping(row, "input", source)
    prompt = turns(given.get("messages"), "input.messages", source)
    chosen, rejected = (turns(row.get(key), key, source) for key in _OPENAI)
    rest = common(row, source) | {"tools": tools(given, source)}
    return comparison(prompt, chosen, rejected, **rest, **strength(row, source))


def _write_openai(row: Comparison) -> dict[str, Any]:
    asked: dict[str, Any] = {"messages": only_turns(row.prompt, "prompt")}
    if row.tools is not None:
        asked["tools"] = row.tools
    fields = {
        "id": row.id,
        "input": asked,
        "preferred_output": only_turns(row.chosen, "chosen"),
        "non_preferred_output": only_turns(row.rejected, "rejected"),
        "margin": row.margin,
        "preference": row.preference,
    }
    return {key: listed(value) for key, value in fields.items() if value is not None}


def _parse_swift(row: Fields, source: Source) -> Comparison:
    messages = turns(row.get("messages"), "messages", source)
    if not messages or messages[-1]["role"] != "assistant":
        raise RowFault("messages", "must end with the chosen answer, an assistant turn")
    rejected = (assistant(string(row, "rejected_response")),)
    return comparison(messages[:-1], messages[-1:], rejected, **common(row, source), **strength(row, source))


def _write_swift(row: Comparison) -> dict[str, Any]:
    (*others, last) = only_turns(row.rejected, "rejected")
    if others or set(last) != {"role", "content"}:
        raise RowFault("rejected", "rejected_response holds the text of one answer only")
    chosen = only_turns(row.chosen, "chosen")
    if len(chosen) != 1:
        raise RowFault("chosen", "is more than the one turn that rejected_response takes the place of")
    return written(
        row,
        messages=whole(only_turns(row.prompt, "prompt"), chosen, "chosen"),
        rejected_response=last["content"],
        margin=row.margin,
        preference=row.preference,
    )


def _parse_swift_messages(row: Fields, source: Source) -> Comparison:
    sides = (turns(row.get(key), key, source) for key in ("messages", "rejected_messages"))
    return comparison(*split_implicit(*sides), **common(row, source), **strength(row, source))


def _write_swift_messages(row: Comparison) -> dict[str, Any]:
    prompt = only_turns(row.prompt or (), "prompt")
    return written(
        row,
        messages=whole(prompt, only_turns(row.chosen, "chosen"), "chosen"),
        rejected_messages=whole(prompt, only_turns(row.rejected, "rejected"), "rejected"),
        margin=row.margin,
        preference=row.preference,
    )


def _parse_orca(row: Fields, source: Source) -> Comparison:
    prompt = (*system(optional_string(row, "system")), user(string(row, "question")))
    sides = (as_answer(string(row, key)) for key in ("chosen", "rejected"))
    return comparison(prompt, *sides, **common(row, source), **strength(row, source))


def _only_text(value: Text, field: str) -> str:
    said = only_turns(value, field)
    if len(said) != 1 or set(said[0]) != {"role", "content"}:
        raise RowFault(field, "the format holds the text of one answer only")
    return said[0]["content"]


def question_of(prompt: Text) -> tuple[str | None, str]:
    """System text and question of a prompt that holds nothing else.

    Raises:
        RowFault: it holds more.
    """
    said: tuple[Turn, ...] = only_turns(prompt, "prompt")
    roles = [item["role"] for item in said]
    if roles not in (["user"], ["system", "user"]) or any(set(item) != {"role", "content"} for item in said):
        raise RowFault("prompt", "the format holds one question and a system text at most")
    return (said[0]["content"] if len(said) == 2 else None), said[-1]["content"]


def _write_orca(row: Comparison) -> dict[str, Any]:
    instructions, question = question_of(row.prompt)
    return written(
        row,
        system=instructions,
        question=question,
        chosen=_only_text(row.chosen, "chosen"),
        rejected=_only_text(row.rejected, "rejected"),
        margin=row.margin,
        preference=row.preference,
    )


def _parse_judged(row: Fields, source: Source) -> Comparison:
    """``preference`` between 1 (the first output is better) and 2; the fraction is the judge's probability."""
    second = number(row, "preference", source)
    if second in (0.0, 1.5):
        raise RowFault("preference", f"{second:g} is a tie: nothing to prefer")
    if not 1.0 <= second <= 2.0:
        raise RowFault("preference", f"must lie in [1, 2], not {second:g}")
    first, other = (as_answer(string(row, key)) for key in ("output_1", "output_2"))
    probability = max(second - 1.0, 2.0 - second)
    chosen, rejected = (first, other) if second < 1.5 else (other, first)
    prompt = (user(string(row, "instruction")),)
    soft = None if probability == 1.0 else probability
    return comparison(prompt, chosen, rejected, preference=soft, **common(row, source))


def _write_judged(row: Comparison) -> dict[str, Any]:
    instructions, question = question_of(row.prompt)
    if instructions is not None:
        raise RowFault("prompt", "the format has no place for a system text")
    probability = 1.0 if row.preference is None else row.preference
    return written(
        row,
        instruction=question,
        output_1=_only_text(row.chosen, "chosen"),
        output_2=_only_text(row.rejected, "rejected"),
        preference=2.0 - probability,
    )


OPENAI = Format(
    name="openai-preference",
    title="OpenAI preference file: input.messages, preferred_output, non_preferred_output",
    makes=Comparison,
    required=("input", *_OPENAI),
    optional=STRENGTH,
    fits=lambda row: hasattr(row["input"], "get") and is_turns(row["input"].get("messages")),
    parse=_parse_openai,
    write=_write_openai,
)
SWIFT = Format(
    name="swift",
    title="ms-swift: messages with the chosen answer, rejected_response with the other",
    makes=Comparison,
    required=("messages", "rejected_response"),
    optional=STRENGTH,
    fits=lambda row: is_turns(row["messages"]) and is_text(row["rejected_response"]),
    parse=_parse_swift,
    write=_write_swift,
)
SWIFT_MESSAGES = Format(
    name="swift-messages",
    title="ms-swift: messages and rejected_messages, whole conversations",
    makes=Comparison,
    required=("messages", "rejected_messages"),
    optional=STRENGTH,
    fits=lambda row: is_turns(row["messages"]) and is_turns(row["rejected_messages"]),
    parse=_parse_swift_messages,
    write=_write_swift_messages,
)
ORCA = Format(
    name="orca",
    title="Intel orca: system, question, chosen, rejected",
    makes=Comparison,
    required=("question", "chosen", "rejected"),
    optional=("system", *STRENGTH),
    foreign=("prompt", "instruction"),
    aliases={"question": ("input",)},
    fits=lambda row: all(is_text(row[key]) for key in ("question", "chosen", "rejected")),
    parse=_parse_orca,
    write=_write_orca,
)
JUDGED = Format(
    name="judged-pair",
    title="instruction, output_1, output_2 and the judge's preference between 1 and 2",
    makes=Comparison,
    required=("instruction", "output_1", "output_2", "preference"),
    fits=lambda row: all(is_text(row[key]) for key in ("instruction", "output_1", "output_2")),
    parse=_parse_judged,
    write=_write_judged,
)
FORMATS = (OPENAI, SWIFT, SWIFT_MESSAGES, ORCA, JUDGED)
