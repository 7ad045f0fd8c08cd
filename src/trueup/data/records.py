"""Rows of text files before anything is known of their meaning: JSON Lines, a JSON array, CSV, a quarantine file.

A :class:`Record` is either fields or a fault, and always what is needed to show it to the user again.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueup.data import files
from trueup.data.fields import Kind, RowFault
from trueup.data.files import Line
from trueup.data.jsonarray import Elements
from trueup.data.jsontext import check_values, parse_row
from trueup.errors import DataError

QUARANTINED = "trueup_quarantine"


@dataclass(frozen=True, slots=True)
class Record:
    """One row as the file has it.

    Attributes:
        line: where it starts (line, or number of the row in a table), from 1.
        fields: its values by column, or None where there is a fault.
        fault: why it cannot be read, or None.
        raw: its bytes; None for a readable row of a table, and where they were too many to keep.
        kind: json, csv or parquet: decides how cells are read.
        header: column names, for CSV.
        origin: ``path:line`` of the row where a quarantine file holds it, else None.
        place: offset and length of a row that was too long to keep.
    """

    line: int
    fields: Mapping[str, Any] | None
    fault: RowFault | None
    raw: bytes | None
    kind: Kind = "json"
    header: tuple[str, ...] | None = None
    origin: str | None = None
    place: tuple[int, int] | None = None


def _too_long(line: Line) -> Record:
    fault = RowFault("row", f"is {line.length} bytes long; the limit is {files.LINE_LIMIT}")
    return Record(line.number, None, fault, None, place=(line.offset, line.length))


def json_record(line: Line) -> Record:
    """The record of one line of JSON; a line of a quarantine file gives the row inside."""
    if line.raw is None:
        return _too_long(line)
    try:
        fields = parse_row(line.raw, line.offset)
        if QUARANTINED in fields:
            return _released(line, fields)
        check_values(fields)
    except RowFault as fault:
        return Record(line.number, None, fault, line.raw)
    return Record(line.number, fields, None, line.raw)


def json_lines(path: Path, pieces: Iterable[bytes]) -> Iterator[Record]:
    """Records of a JSON Lines file; blank lines are no rows."""
    for line in files.lines(path, pieces, files.LINE_LIMIT):
        if line.raw is None or line.raw.strip(b" \t\r"):
            yield json_record(line)


def json_array(path: Path, pieces: Iterator[bytes]) -> Iterator[Record]:
    """Records of a file that is one JSON array; one that starts with an object is read as JSON Lines.

    Raises:
        DataError: it is neither, or ends inside the array.
    """
    head = b""
    for piece in pieces:
        head += piece
        if head.strip():
            break
    start = head.lstrip()[:1]
    if start == b"{":
        yield from json_lines(path, _chain(head, pieces))
    elif start == b"[":
        for line in Elements(path).cut(_chain(head, pieces)):
            yield json_record(line)
    elif start:
        raise DataError(f"{path}: a JSON file must hold an array of rows; this one starts with {start!r}")


def _chain(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from pieces


class _Feed:
    """Hands physical lines to the csv reader and remembers those of the current record."""

    def __init__(self, path: Path, lines: Iterator[Line]) -> None:
        self.path, self.lines = path, lines
        self.taken: list[Line] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.taken.append(line)
        if line.raw is None or sum(item.length for item in self.taken) > files.LINE_LIMIT:
            first = self.taken[0].number
            raise DataError(
                f"{self.path}:{first}: a CSV row of more than {files.LINE_LIMIT} bytes; is a quote left open?"
            )
        return line.raw.decode("utf-8", errors="surrogateescape") + "\n"

    def record(self) -> Line:
        """The lines since the last call as one."""
        first = self.taken[0]
        raw = b"\n".join(item.raw or b"" for item in self.taken)
        self.taken = []
        return Line(first.number, first.offset, raw, len(raw))


def csv_records(path: Path, pieces: Iterable[bytes]) -> Iterator[Record]:
    """Records of a comma-separated file with a header.

    Raises:
        DataError: no header, a column named twice, or a quote that is never closed.
    """
    feed = _Feed(path, files.lines(path, pieces, files.LINE_LIMIT))
    before = csv.field_size_limit(files.LINE_LIMIT)
    try:
        reader = csv.reader(feed, strict=True)
        header = _header(path, reader)
        feed.taken = []
        yield from _csv_rows(path, reader, feed, header)
    finally:
        csv.field_size_limit(before)


def _header(path: Path, reader: Iterator[list[str]]) -> tuple[str, ...]:
    try:
        header = tuple(next(reader, []))
    except csv.Error as error:
        raise DataError(f"{path}:1: the header is not CSV: {error}") from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}:1: the header names {twice[0]!r} twice")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise DataError(f"{path}:1: the header is not separated by commas: {header[0]!r}")
    return header


def _csv_rows(path: Path, reader: Iterator[list[str]], feed: _Feed, header: tuple[str, ...]) -> Iterator[Record]:
    while True:
        try:
            cells: list[str] | None = next(reader)
            problem = None
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise DataError(f"{path}:{feed.taken[0].number}: a quote opens here and is never closed") from None
            cells, problem = None, f"is not CSV: {error}"
        line = feed.record()
        if problem and (line.raw or b"").count(b'"') % 2:
            raise DataError(f"{path}:{line.number}: {problem}; where the next row starts cannot be told")
        if cells != []:
            yield _csv_record(line, cells, header, problem)


def _csv_record(line: Line, cells: list[str] | None, header: tuple[str, ...], problem: str | None) -> Record:
    try:
        if cells is None:
            raise RowFault("row", problem or "is not CSV")
        fields = csv_fields(cells, header, line)
    except RowFault as fault:
        return Record(line.number, None, fault, line.raw, "csv", header)
    return Record(line.number, fields, None, line.raw, "csv", header)


def csv_fields(cells: list[str], header: tuple[str, ...], line: Line) -> dict[str, str]:
    """Cells by column.

    Raises:
        RowFault: too few or too many cells, or bytes that are not UTF-8.
    """
    try:
        (line.raw or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowFault(
            "row",
            f"invalid UTF-8: 0x{error.object[error.start]:02x} at byte offset {error.start} of the row, "
            f"{line.offset + error.start} of the file",
        ) from None
    if len(cells) != len(header):
        raise RowFault("row", f"has {len(cells)} cells; the header has {len(header)}")
    fields = dict(zip(header, cells, strict=True))
    check_values(fields)
    return fields


def quarantined(record: Record, origin: str, fault: RowFault) -> dict[str, Any]:
    """The line of a quarantine file for a record that was refused."""
    line: dict[str, Any] = {
        QUARANTINED: 1,
        "origin": record.origin or origin,
        "field": fault.field,
        "reason": fault.reason,
    }
    if record.kind != "json":
        line["kind"] = record.kind
    if record.header is not None:
        line["header"] = list(record.header)
    raw = table_row(record.fields) if record.raw is None and record.fields is not None else record.raw
    if raw is None:
        offset, length = record.place or (0, 0)
        return {**line, "raw": None, "offset": offset, "length": length}
    try:
        return {**line, "raw": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {**line, "raw_base64": base64.b64encode(raw).decode("ascii")}


def _released(line: Line, held: Mapping[str, Any]) -> Record:
    """The record inside a line of a quarantine file."""
    kind, header, origin = held.get("kind", "json"), held.get("header"), held.get("origin")
    try:
        raw = _raw(held)
        inner = Line(line.number, 0, raw, len(raw))
        if kind not in ("json", "csv", "parquet") or not isinstance(origin, str):
            raise RowFault("row", "is a quarantine line with an unknown kind or without an origin")
        fields = _csv_again(inner, header) if kind == "csv" else parse_row(raw)
        check_values(fields)
    except RowFault as fault:
        raw = line.raw if held.get("raw") is None and held.get("raw_base64") is None else _raw_or_none(held)
        place = (held.get("offset", 0), held.get("length", 0)) if raw is None else None
        return Record(line.number, None, fault, raw, kind, _names(header), str(origin), place)
    return Record(line.number, fields, None, raw, kind, _names(header), origin)


def _names(header: Any) -> tuple[str, ...] | None:
    return tuple(map(str, header)) if isinstance(header, list) else None


def _raw_or_none(held: Mapping[str, Any]) -> bytes | None:
    try:
        return _raw(held)
    except RowFault:
        return None


def _raw(held: Mapping[str, Any]) -> bytes:
    text, encoded = held.get("raw"), held.get("raw_base64")
    if isinstance(text, str):
        return text.encode("utf-8")
    if isinstance(encoded, str):
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise RowFault("raw_base64", "is not base64") from None
    raise RowFault("raw", f"was too long to keep ({held.get('length')} bytes); mend it in {held.get('origin')}")


def _csv_again(line: Line, header: Any) -> dict[str, str]:
    names = _names(header)
    if names is None:
        raise RowFault("header", "must be the list of column names")
    text = (line.raw or b"").decode("utf-8", errors="surrogateescape")
    try:
        rows = list(csv.reader(text.splitlines(keepends=True), strict=True))
    except csv.Error as error:
        raise RowFault("row", f"is not CSV: {error}") from None
    if len(rows) != 1:
        raise RowFault("row", f"holds {len(rows)} CSV rows instead of one")
    return csv_fields(rows[0], names, line)


def table_row(fields: Mapping[str, Any]) -> bytes:
    """A row of a table as JSON; NaN stays NaN, so that reading it again does not mend it in silence."""
    text = json.dumps(fields, ensure_ascii=False, default=str)
    return text.encode("utf-8", errors="backslashreplace")
