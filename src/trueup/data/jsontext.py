"""One row of JSON text, read strictly: no duplicate keys, no NaN, no bytes that are not UTF-8, no broken strings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from trueup.data.fields import RowFault, kind_of, shown

MAX_DEPTH = 100


def _no_constant(name: str) -> NoReturn:
    raise RowFault("row", f"holds {name}, which is not JSON; leave the field out or give a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RowFault("row", f"has the key {shown(twice)} twice")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def parse_row(raw: bytes, offset: int = 0) -> dict[str, Any]:
    """The JSON object in ``raw``, its values not yet checked (:func:`check_values`).

    Args:
        raw: bytes of one row.
        offset: where they start in the file, for messages.

    Raises:
        RowFault: they are not one strict JSON object.
    """
    try:
        text = raw.decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        bad = raw[error.start]
        place = f"byte offset {error.start} of the row, {offset + error.start} of the file"
        raise RowFault("row", f"invalid UTF-8: 0x{bad:02x} at {place}") from None
    return _parse_text(text)


def _parse_text(text: str) -> dict[str, Any]:
    if "\0" in text:
        raise RowFault("row", f"holds a NUL byte at character {text.index(chr(0)) + 1}")
    if text.startswith("\ufeff"):
        raise RowFault("row", "starts with a byte order mark in the middle of the file; remove it")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise RowFault("row", f"is nested more than {MAX_DEPTH} levels deep") from None
    except json.JSONDecodeError as error:
        raise RowFault("row", f"is not JSON: {error.msg} at character {error.pos + 1}") from None
    except ValueError as error:
        raise RowFault("row", f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowFault("row", f"must be a JSON object, not {kind_of(value)}")
    return value


def check_values(row: Mapping[str, Any]) -> None:
    """Refuse strings that cannot be written as UTF-8 or hold NUL, and values nested too deeply.

    Raises:
        RowFault: naming the top-level field.
    """
    for field, top in row.items():
        if not isinstance(field, str):
            raise RowFault("row", f"has the key {shown(field)}, which is not a string")
        _check_string(field, "row")
        level = [top]
        for _ in range(MAX_DEPTH):
            level = _check_level(level, field)
            if not level:
                break
        else:
            raise RowFault(field, f"is nested more than {MAX_DEPTH} levels deep")


def _check_level(values: list[Any], field: str) -> list[Any]:
    below: list[Any] = []
    for value in values:
        if isinstance(value, str):
            _check_string(value, field)
        elif isinstance(value, Mapping):
            below.extend(value.keys())
            below.extend(value.values())
        elif isinstance(value, (list, tuple)):
            below.extend(value)
    return below


def _check_string(value: str, field: str) -> None:
    if "\0" in value:
        raise RowFault(field, f"holds a NUL character at position {value.index(chr(0)) + 1}")
    if value.isascii():
        return
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise RowFault(field, f"holds a lone surrogate U+{code:04X} at character {error.start + 1}") from None
