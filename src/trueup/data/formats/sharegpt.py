"""ShareGPT conversations (``from`` and ``value``): imitation, preference pairs and labelled answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trueup.data.fields import (
    Fields,
    RowFault,
    Source,
    boolean,
    common,
    kind_of,
    optional_string,
    sequence,
    shown,
    system,
    turn,
)
from trueup.data.formats.base import Format, comparison, is_turns, only_turns, written
from trueup.data.formats.completion import conversation_of, example, imitated, rating
from trueup.data.formats.preference import STRENGTH, strength
from trueup.types import Comparison, Example, Rating, Text, Turn

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "developer",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system", "developer": "developer", "tool": "observation"}


def _calls(value: str, where: str) -> list[dict[str, Any]]:
    """Tool calls from the JSON text of a ``function_call`` turn: one call or a list of them."""
    try:
        calls = json.loads(value)
    except (ValueError, RecursionError):
        raise RowFault(where, "a function_call must be JSON with name and arguments") from None
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, Mapping) and set(call) == {"name", "arguments"} for call in calls):
        raise RowFault(where, "a function_call must hold name and arguments")
    return [{"type": "function", "function": dict(call)} for call in calls]


def _spoken(item: Any, where: str) -> Turn:
    """One turn; files that have role and content under ``conversations`` are read too."""
    if not isinstance(item, Mapping) or "from" not in item:
        return turn(item, where)
    speaker, value = item["from"], item.get("value")
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise RowFault(where, f"unknown speaker {shown(speaker)}; known are {', '.join(_ROLES)}")
    if not isinstance(value, str):
        raise RowFault(where, f"value must be a string, not {kind_of(value)}")
    rest = {key: other for key, other in item.items() if key not in ("from", "value") and other is not None}
    if speaker == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(value, where), **rest}
    return {"role": _ROLES[speaker], "content": value, **rest}


def _conversation(row: Fields, source: Source) -> tuple[Turn, ...]:
    said = [
        _spoken(item, f"conversations[{index}]") for index, item in enumerate(sequence(row, "conversations", source))
    ]
    return (*system(optional_string(row, "system")), *said)


def _told(item: Turn, field: str) -> dict[str, Any]:
    """A turn as ``from`` and ``value``."""
    calls = item.get("tool_calls")
    rest = {key: value for key, value in item.items() if key not in ("role", "content", "tool_calls")}
    if not calls:
        return {"from": _SPEAKERS[item["role"]], "value": item["content"], **rest}
    plain = [call["function"] for call in calls if isinstance(call, Mapping) and set(call) == {"type", "function"}]
    if item["content"] or len(plain) < len(calls):
        raise RowFault(field, "a function_call turn holds calls with a name and arguments, and no text or call id")
    return {"from": "function_call", "value": json.dumps(plain[0] if len(plain) == 1 else plain), **rest}


def _tell(turns: tuple[Turn, ...], field: str) -> list[dict[str, Any]]:
    return [_told(item, field) for item in turns]


def _parse(row: Fields, source: Source) -> Example:
    return example(_conversation(row, source), "conversations", **common(row, source))


def _parse_label(row: Fields, source: Source) -> Rating:
    label = boolean(row, "kto_tag", source)
    return rating(_conversation(row, source), "conversations", label, **common(row, source))


def _side(row: Fields, key: str, source: Source) -> Text:
    value = row.get(key)
    if isinstance(value, str) and source.kind == "json":
        raise RowFault(key, "must be one turn (from, value), not a string")
    if isinstance(value, Mapping):
        return (_spoken(value, key),)
    return tuple(_spoken(item, f"{key}[{index}]") for index, item in enumerate(_listed(row, key, source)))


def _listed(row: Fields, key: str, source: Source) -> list[Any]:
    """A list of turns, or the one turn that a CSV or Parquet cell holds as JSON text."""
    value = row.get(key)
    if isinstance(value, str) and value.startswith("{"):
        return sequence({key: f"[{value}]"}, key, source)
    return sequence(row, key, source)


def _parse_pair(row: Fields, source: Source) -> Comparison:
    prompt = _conversation(row, source)
    chosen, rejected = (_side(row, key, source) for key in ("chosen", "rejected"))
    return comparison(prompt, chosen, rejected, **common(row, source), **strength(row, source))


def _write_pair(row: Comparison) -> dict[str, Any]:
    sides = {}
    for name, side in (("chosen", row.chosen), ("rejected", row.rejected)):
        told = _tell(only_turns(side, name), name)
        sides[name] = told[0] if len(told) == 1 else told
    prompt = only_turns(row.prompt, "prompt")
    if not prompt:
        raise RowFault("prompt", "is empty; conversations needs a turn")
    return written(row, conversations=_tell(prompt, "prompt"), **sides, margin=row.margin, preference=row.preference)


def _fits(row: Fields) -> bool:
    return is_turns(row["conversations"], "from", "value") or is_turns(row["conversations"])


def _fits_pair(row: Fields) -> bool:
    return _fits(row) and all(isinstance(row[key], (Mapping, list, tuple)) for key in ("chosen", "rejected"))


SHAREGPT = Format(
    name="sharegpt",
    title="conversations of from and value: every gpt turn is imitated",
    makes=Example,
    required=("conversations",),
    optional=("system",),
    foreign=("chosen", "rejected", "kto_tag"),
    fits=_fits,
    parse=_parse,
    write=lambda row: written(row, conversations=_tell(imitated(row), "conversations")),
)
SHAREGPT_PAIR = Format(
    name="sharegpt-preference",
    title="conversations up to the question, and one turn each in chosen and rejected",
    makes=Comparison,
    required=("conversations", "chosen", "rejected"),
    optional=("system", *STRENGTH),
    fits=_fits_pair,
    parse=_parse_pair,
    write=_write_pair,
)
SHAREGPT_LABEL = Format(
    name="sharegpt-kto",
    title="conversations and kto_tag: whether the last answer is desirable",
    makes=Rating,
    required=("conversations", "kto_tag"),
    optional=("system",),
    fits=_fits,
    parse=_parse_label,
    write=lambda row: written(row, conversations=_tell(conversation_of(row), "conversations"), kto_tag=row.label),
)
FORMATS = (SHAREGPT, SHAREGPT_PAIR, SHAREGPT_LABEL)
