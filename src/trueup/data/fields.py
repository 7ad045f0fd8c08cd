"""Checked access to the fields of one row: each function returns a value of the right type or raises a RowFault.

Nothing is coerced in silence. CSV has no types, so its cells (``untyped``) may spell numbers and booleans as text, and
CSV and Parquet cells (``decodes``) may hold a list as JSON text; JSON rows get neither.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from trueup.errors import DataError
from trueup.types import ROLES, Text, Turn

Kind: TypeAlias = Literal["json", "csv", "parquet"]
Fields: TypeAlias = Mapping[str, Any]

MISSING = "is missing"


class RowFault(DataError):
    """Why one row cannot be used.

    Attributes:
        field: the field at fault, or ``row``.
        reason: what is wrong with it and, where it is not plain, what is accepted.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Source:
    """Where a row came from.

    Attributes:
        id: identity given to a row that has no ``id`` field of its own.
        origin: ``path:line``.
        kind: kind of file, which decides what a cell may look like.
    """

    id: str
    origin: str
    kind: Kind = "json"


def shown(value: object, limit: int = 40) -> str:
    """A short ``repr`` for messages."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def kind_of(value: object) -> str:
    """The type of a value in the words of JSON."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", type(None): "null"}
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    return names.get(type(value), type(value).__name__)


def given(row: Fields, key: str) -> Any | None:
    """The value of an optional field; None where it is absent, null or an empty string."""
    value = row.get(key)
    return None if value is None or (isinstance(value, str) and not value) else value


def required(row: Fields, key: str) -> Any:
    """The value of a field that must be there and not null."""
    value = row.get(key)
    if value is None:
        raise RowFault(key, MISSING)
    return value


def string(row: Fields, key: str, *, blank: bool = False) -> str:
    """A string field; whitespace alone is refused unless ``blank``."""
    value = required(row, key)
    if not isinstance(value, str):
        raise RowFault(key, f"must be a string, not {kind_of(value)}")
    if not blank and not value.strip():
        raise RowFault(key, "is empty")
    return value


def optional_string(row: Fields, key: str) -> str | None:
    """A string field that may be absent, null or empty."""
    return None if given(row, key) is None else string(row, key, blank=True)


_WORDS = {"true": True, "false": False, "1": True, "0": False}


def boolean(row: Fields, key: str, source: Source) -> bool:
    """A label: true or false, or the integers 1 and 0; in a CSV also the words true and false."""
    value = required(row, key)
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if source.kind == "csv" and isinstance(value, str) and value.strip().lower() in _WORDS:
        return _WORDS[value.strip().lower()]
    raise RowFault(key, f"must be true or false (or the number 1 or 0), not {kind_of(value)} {shown(value)}")


def number(row: Fields, key: str, source: Source, *, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in [low, high]; in a CSV also its spelling."""
    value = required(row, key)
    if source.kind == "csv" and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise RowFault(key, f"must be a number, not {shown(value)}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowFault(key, f"must be a number, not {kind_of(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise RowFault(key, f"must be a finite number, not {shown(value)}")
    if not low <= result <= high:
        raise RowFault(key, f"must lie in [{low:g}, {high:g}], not {shown(value)}")
    return result


def optional_number(
    row: Fields, key: str, source: Source, *, low: float = -math.inf, high: float = math.inf
) -> float | None:
    """A number that may be absent or null."""
    return None if given(row, key) is None else number(row, key, source, low=low, high=high)


def decoded(value: Any, source: Source) -> Any:
    """A list or object that a CSV or Parquet cell holds as JSON text; any other value as it is."""
    if source.kind == "json" or not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def sequence(row: Fields, key: str, source: Source) -> list[Any]:
    """A list with at least one element."""
    value = decoded(required(row, key), source)
    if not isinstance(value, (list, tuple)):
        raise RowFault(key, f"must be a list, not {kind_of(value)}")
    if not value:
        raise RowFault(key, "is an empty list")
    return list(value)


def mapping(row: Fields, key: str, source: Source) -> Mapping[str, Any]:
    """An object."""
    value = decoded(required(row, key), source)
    if not isinstance(value, Mapping):
        raise RowFault(key, f"must be an object, not {kind_of(value)}")
    return value


def tools(row: Fields, source: Source, key: str = "tools") -> tuple[Any, ...] | None:
    """Tool declarations, untouched: a list of objects, or that list as JSON text (as hub data sets store it)."""
    value = given(row, key)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowFault(key, "is a string that is not JSON; give a list of tool declarations") from None
    if value is None or value == [] or value == ():
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, Mapping) for item in value):
        raise RowFault(key, "must be a list of objects")
    return tuple(value)


def _content(turn: Mapping[str, Any], where: str) -> str | None:
    value = turn.get("content")
    if isinstance(value, str):
        return value
    if value is None and turn.get("tool_calls"):
        return None
    if isinstance(value, (list, tuple)) and value:
        return "".join(_part(part, where) for part in value)
    if value is None:
        raise RowFault(where, "has no content")
    raise RowFault(where, f"content must be a string, not {kind_of(value)}")


def _part(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    name = part.get("type") if isinstance(part, Mapping) else kind_of(part)
    raise RowFault(where, f"content part {shown(name)} is not text; only text can be trained on")


def turn(value: Any, where: str) -> Turn:
    """One turn with a known role and text; other keys are kept as they came, apart from null ones."""
    if not isinstance(value, Mapping):
        raise RowFault(where, f"a turn must be an object with role and content, not {kind_of(value)}")
    role = value.get("role")
    if role is None:
        raise RowFault(where, f"a turn has no role; its keys are {shown(list(value), 80)}")
    if role not in ROLES:
        raise RowFault(where, f"unknown role {shown(role)}; known are {', '.join(ROLES)}")
    content = _content(value, where)
    kept = {key: item for key, item in value.items() if item is not None and key not in ("role", "content")}
    return {"role": role, "content": content, **kept}


def turns(value: Any, field: str, source: Source) -> tuple[Turn, ...]:
    """A list of turns; its faults name the turn (``messages[2]``)."""
    value = decoded(value, source)
    if value is None:
        raise RowFault(field, MISSING)
    if not isinstance(value, (list, tuple)):
        raise RowFault(field, f"must be a list of turns, not {kind_of(value)}")
    return tuple(turn(item, f"{field}[{index}]") for index, item in enumerate(value))


def text(row: Fields, key: str, source: Source, *, blank: bool = False) -> Text:
    """Raw text or a list of turns."""
    value = required(row, key)
    if isinstance(value, str):
        inside = decoded(value, source)
        if not (isinstance(inside, list) and all(isinstance(item, Mapping) and "role" in item for item in inside)):
            return string(row, key, blank=blank)
        value = inside
    if isinstance(value, Mapping):
        return (turn(value, key),)
    if not isinstance(value, (list, tuple)):
        raise RowFault(key, f"must be a string or a list of turns, not {kind_of(value)}")
    result = turns(value, key, source)
    if not result and not blank:
        raise RowFault(key, "is an empty list")
    return result


def is_said(item: Turn) -> bool:
    """Whether an assistant turn says or calls anything."""
    return bool((item["content"] or "").strip() or item.get("tool_calls"))


def completion(value: Text, field: str) -> Text:
    """A completion that can be trained on: text that is not blank, or turns whose last is a full assistant turn."""
    if isinstance(value, str):
        if not value.strip():
            raise RowFault(field, "is empty")
        return value
    answers = [item for item in value if item["role"] == "assistant"]
    if not answers:
        raise RowFault(field, "has no assistant turn")
    if value[-1]["role"] != "assistant":
        raise RowFault(field, f"ends with a {value[-1]['role']} turn; the last turn must be the assistant's")
    if not all(is_said(item) for item in answers):
        raise RowFault(field, "is empty: an assistant turn without content")
    return value


def user(content: str) -> Turn:
    """A user turn."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Turn:
    """An assistant turn."""
    return {"role": "assistant", "content": content}


def system(content: str | None) -> tuple[Turn, ...]:
    """A system turn, or nothing."""
    return ({"role": "system", "content": content},) if content else ()


def identity(row: Fields, source: Source) -> str:
    """The row's own ``id`` (a string or a whole number), else the one of its place in the file."""
    value = given(row, "id")
    if value is None:
        return source.id
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RowFault("id", f"must be a string or a whole number, not {kind_of(value)}")
    return str(value)


def common(row: Fields, source: Source) -> dict[str, Any]:
    """The arguments every row class takes apart from its prompt."""
    if given(row, "images"):
        raise RowFault("images", "rows with images cannot be used; only text is trained on")
    if given(row, "chat_template_kwargs"):
        raise RowFault("chat_template_kwargs", "is not supported; map it to '-' in the columns to ignore it")
    return {"id": identity(row, source), "origin": source.origin, "tools": tools(row, source)}


def common_turns(first: Iterable[Turn], second: Iterable[Turn]) -> int:
    """Number of leading turns that are the same in both."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
