"""Rows to the fields of any format that can hold them; what would be lost is an error, never a gap."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from trueup.data.fields import RowFault, Source, assistant, user
from trueup.data.formats import Format
from trueup.data.schema import named_format
from trueup.data.wanted import check_possible, turned
from trueup.data.write import write_rows
from trueup.errors import DataError
from trueup.types import AnyRow, Comparison, Prompt, Ranking, Text, Turn

__all__ = ["convert", "wrapped", "write_rows"]


def _answer(value: Text) -> tuple[Turn, ...]:
    return (assistant(value),) if isinstance(value, str) else value


def wrapped(row: AnyRow) -> AnyRow:
    """The row with raw text as turns: the prompt is one user turn, a completion one assistant turn."""
    prompt = ((user(row.prompt),) if row.prompt else ()) if isinstance(row.prompt, str) else row.prompt
    if isinstance(row, Comparison):
        return replace(row, prompt=prompt, chosen=_answer(row.chosen), rejected=_answer(row.rejected))
    if isinstance(row, Ranking):
        return replace(row, prompt=prompt, completions=tuple(map(_answer, row.completions)))
    if isinstance(row, Prompt):
        return replace(row, prompt=prompt)
    return replace(row, prompt=prompt, completion=_answer(row.completion))


def _lost(row: AnyRow, again: Any) -> list[str]:
    """Names of the fields that differ between a row and what is read back of it."""
    names = [field.name for field in dataclasses.fields(row) if field.name != "origin"]
    return [name for name in names if getattr(row, name) != getattr(again, name)]


def _written(row: AnyRow, entry: Format[Any]) -> dict[str, Any]:
    """The fields of a row, checked by reading them back.

    Raises:
        DataError: the format cannot hold the row.
    """
    try:
        fields = entry.write(row)
        again = entry.parse(fields, Source(id=row.id, origin=row.origin))
    except RowFault as fault:
        raise DataError(f"{row.origin}: {fault.field}: cannot be written as {entry.name!r}: {fault.reason}") from None
    lost = _lost(row, again)
    if lost:
        raise DataError(
            f"{row.origin}: {', '.join(lost)}: cannot be written as {entry.name!r}: "
            f"{'it' if len(lost) == 1 else 'they'} would not come back the same; that format has no place for this"
        )
    return fields


def convert(rows: Iterable[AnyRow], format_name: str, *, wrap: bool = False) -> Iterator[dict[str, Any]]:
    """Write rows in the fields of a format; every row is read back and compared before it is given out.

    A row of another class is first turned into the one the format holds, by the table in ``docs/formats.md`` (a pair
    gives two labelled completions, a ranking its best and worst answer).

    Args:
        rows: rows of any class.
        format_name: a name in :data:`trueup.data.formats.FORMATS`.
        wrap: turn raw text into turns first, which formats of turns need.

    Returns:
        An iterator of dictionaries for :func:`trueup.data.write.write_rows`.

    Raises:
        DataError: the format is unknown, or a row holds less or more than it can say; the message names what.
    """
    entry = named_format(format_name)
    if entry is None:
        raise DataError("name the format to write; 'auto' is for reading")
    return _converted(rows, entry, wrap=wrap)


def _converted(rows: Iterable[AnyRow], entry: Format[Any], *, wrap: bool) -> Iterator[dict[str, Any]]:
    for row in rows:
        check_possible(type(row), entry.makes, f"{row.origin}: a {type(row).__name__}")
        try:
            results = turned(wrapped(row) if wrap else row, entry.makes)
        except RowFault as fault:
            raise DataError(
                f"{row.origin}: {fault.field}: cannot be written as {entry.name!r}: {fault.reason}"
            ) from None
        for result in results:
            yield _written(result, entry)
