"""Read rows from a file, a folder or the hub: every row is kept or rejected with a reason, and the counts add up."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from trueup.data import schema
from trueup.data.fields import Fields, RowFault, Source, shown
from trueup.data.files import chunks, file_kind, has_known_name
from trueup.data.formats import Format
from trueup.data.quarantine import Quarantine, default_path
from trueup.data.records import Record, csv_records, json_array, json_lines
from trueup.data.tables import folder_records, hub_records, is_datasets_folder, is_hub_id, parquet_records
from trueup.data.wanted import check_possible, gathered, group_key, turned
from trueup.errors import DataError
from trueup.types import AnyRow, Comparison, Ranking, Row

BadRows: TypeAlias = Literal["error", "skip", "quarantine"]
SAMPLE = 200
SHOWN = 5


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why one row was rejected; its text is ``path:line: field: reason``."""

    path: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.field}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What came out of one file.

    Attributes:
        rows: the rows, in file order. One row of the file may give two (a pair read as two ratings), and several may
            give one (scored answers to one prompt read as a pair).
        kept: rows of the file that are in ``rows``.
        rejected: rows of the file that are not, one problem each.
        read: rows of the file.
        problems: why rows were rejected, by line.
        format: name of the format they were read as.
        unused: columns of the file that the format does not read.
        quarantine: where rejected rows were written, or None.
        constitutions: hashes of the constitutions that rows say they were made under (``provenance.constitution``).

    Raises:
        ValueError: the counts do not add up.
    """

    rows: list[AnyRow]
    kept: int
    rejected: int
    read: int
    problems: list[RowProblem]
    format: str
    unused: tuple[str, ...] = ()
    quarantine: Path | None = None
    constitutions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.read != self.kept + self.rejected or self.rejected != len(self.problems):
            raise ValueError(
                f"{self.read} rows read, but {self.kept} kept, {self.rejected} rejected, {len(self.problems)} problems"
            )


class _Reading:
    """The state of one reading: what was kept, what was refused, which ids were seen."""

    def __init__(self, path: str, entry: Format[Any], *, auto: bool, columns: Mapping[str, str], need: Any) -> None:
        self.path, self.entry, self.auto, self.columns, self.need = path, entry, auto, columns, need
        self.rows: list[AnyRow] = []
        self.read = 0
        self.refused: list[tuple[Record, RowFault]] = []
        self.ids: dict[str, int] = {}
        self.seen: dict[str, None] = {}
        self.constitutions: dict[str, None] = {}
        self.groups: dict[str, list[tuple[Record, Ranking]]] = {}
        self.place = (0, 0)  # line of the last row, and how many rows of a JSON array have begun on it
        self.gathers = entry.lone and need is Comparison

    def take(self, record: Record) -> None:
        """One row of the file: kept or refused."""
        self.read += 1
        try:
            if record.fields is None:
                raise record.fault or RowFault("row", "cannot be read")
            rows = self._parsed(record, record.fields)
            made = record.fields.get("provenance")
            if isinstance(made, Mapping) and isinstance(under := made.get("constitution"), str):
                self.constitutions[under] = None
            if self.gathers:
                self.groups.setdefault(group_key(rows[0]), []).append((record, rows[0]))
            else:
                self.rows.extend([result for row in rows for result in turned(row, self.need)])
        except RowFault as fault:
            self.refused.append((record, fault))

    def _parsed(self, record: Record, fields: Fields) -> tuple[Any, ...]:
        fields = schema.mapped(fields, self.columns)
        self.seen.update(dict.fromkeys(fields))
        stranger = self.entry.stranger(fields) if self.auto else None
        if stranger is not None:
            raise RowFault(stranger, f"does not belong to the format {self.entry.name!r} of this file")
        self.place = (record.line, self.place[1] + 1 if record.line == self.place[0] else 1)
        origin = record.origin or f"{self.path}:{record.line}"
        again = f"#{self.place[1]}" if record.origin is None and self.place[1] > 1 else ""
        source = Source(id=origin.rpartition("/")[2] + again, origin=origin, kind=record.kind)
        parsed = self.entry.parse(self.entry.resolved(fields), source)
        rows = parsed if isinstance(parsed, tuple) else (parsed,)
        for row in rows:
            first = self.ids.setdefault(row.id, record.line)
            if first != record.line:
                raise RowFault("id", f"{shown(row.id)} is already the id of line {first}")
        return rows

    def finish(self) -> None:
        """Turn the groups of single answers into pairs."""
        for members in self.groups.values():
            try:
                self.rows.extend(turned(gathered([row for _, row in members]), self.need))
            except RowFault as fault:
                self.refused.extend((record, fault) for record, _ in members)
        self.refused.sort(key=lambda item: item[0].line)

    def problems(self) -> list[RowProblem]:
        """Why rows were refused, by line."""
        return [RowProblem(self.path, record.line, fault.field, fault.reason) for record, fault in self.refused]

    def unused(self) -> tuple[str, ...]:
        """Columns that the format does not read."""
        return tuple(name for name in self.seen if name not in self.entry.known())


def records(path: str | Path, split: str = "train") -> Iterator[Record]:
    """Rows of a file, a folder or a hub id as they stand, before they are given a meaning.

    Raises:
        DataError: nothing is there, or it cannot be read to its end.
    """
    place = Path(path)
    if is_datasets_folder(place):
        return folder_records(place, split)
    if os.path.isdir(place):
        raise DataError(f"{path}: is a folder, but not one saved by the datasets library; name a file in it")
    if not os.path.exists(place):
        if is_hub_id(str(path)) and not has_known_name(place) and not os.path.isdir(place.parent):
            return hub_records(str(path), split)
        raise DataError(f"{path}: no such file or folder")
    kind = file_kind(place)
    if kind.content == "parquet":
        return parquet_records(place, kind.packing)
    cut = {"jsonl": json_lines, "json": json_array, "csv": csv_records}[kind.content]
    return cut(place, chunks(place, kind.packing))


def _head(path: str, stream: Iterator[Record], columns: Mapping[str, str]) -> tuple[list[Record], list[Any]]:
    """Records up to the first SAMPLE readable ones, and those with columns mapped."""
    head: list[Record] = []
    sample = []
    for record in stream:
        head.append(record)
        if record.fields is not None:
            sample.append((schema.mapped(record.fields, columns), record.kind))
        if len(sample) == SAMPLE:
            break
    if not head:
        raise DataError(f"{path}: holds no rows")
    _check_present(path, [record.fields for record in head if record.fields is not None], columns)
    return head, sample


def _check_present(path: str, rows: list[Fields], columns: Mapping[str, str]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    for ours, theirs in columns.items():
        if rows and theirs != schema.IGNORE and theirs not in names:
            raise DataError(
                f"{path}: --data.columns maps {ours!r} to {theirs!r}, which is no column{schema.near(theirs, names)}; "
                f"the file has {', '.join(map(repr, names))}"
            )


def _summary(path: str, problems: list[RowProblem], read: int, remedy: str) -> str:
    more = [f"  ... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    head = f"{path}: {len(problems)} of {read} rows cannot be used"
    return "\n".join([head, *(f"  {problem}" for problem in problems[:SHOWN]), *more, f"  {remedy}"])


def _check_arguments(bad_rows: str, columns: Mapping[str, str]) -> None:
    if bad_rows not in get_args(BadRows):
        raise DataError(f"--data.bad_rows: {bad_rows!r} is none of {', '.join(get_args(BadRows))}")
    schema.check_columns(columns)


def read_rows(
    path: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    bad_rows: BadRows = "error",
    quarantine: Path | None = None,
    wanted: type[Row] | None = None,
) -> ReadReport:
    """Read every row of a file.

    Args:
        path: a file (.jsonl, .json, .csv, .parquet, each also .gz or .zst), a folder saved by the ``datasets`` library,
            or a hub id; a quarantine file is read as the rows inside it.
        split: which split, for folders and hub ids.
        format: a format's name, or ``auto``: recognised by the fields of the first rows.
        columns: our field name to the file's column name; ``-`` leaves a column out.
        bad_rows: ``error`` raises if any row cannot be used; ``skip`` counts them; ``quarantine`` also writes them out.
        quarantine: file for the refused rows; default ``NAME.quarantine.jsonl`` beside the file.
        wanted: the row class the method needs; rows of another class that hold the information are turned into it.

    Returns:
        The rows and the account of all that was read.

    Raises:
        DataError: the file cannot be read to its end, its format is unknown or ambiguous or lacks what is wanted, no
            row is left, or ``bad_rows`` is ``error`` and there are any.
    """
    columns = dict(columns or {})
    _check_arguments(bad_rows, columns)
    shown = str(path)
    stream = records(path, split)
    head, sample = _head(shown, stream, columns)
    if not sample:
        lost = [RowProblem(shown, record.line, *_said(record)) for record in head]
        raise DataError(_summary(shown, lost, len(head), "no row can be read"))
    entry = schema.choose(shown, sample, format)
    _check_possible(entry, wanted, shown)
    reading = _Reading(shown, entry, auto=format == "auto", columns=columns, need=wanted)
    for record in itertools.chain(head, stream):
        reading.take(record)
    reading.finish()
    return _report(reading, bad_rows, quarantine)


def _said(record: Record) -> tuple[str, str]:
    return (record.fault.field, record.fault.reason) if record.fault else ("row", "cannot be read")


def _check_possible(entry: Format[Any], need: type[Row] | None, shown: str) -> None:
    check_possible(entry.makes, need, f"{shown}: the format {entry.name!r}")


def _report(reading: _Reading, bad_rows: BadRows, quarantine: Path | None) -> ReadReport:
    problems = reading.problems()
    if problems and bad_rows == "error":
        remedy = "mend them, or pass --data.bad_rows skip or quarantine"
        raise DataError(_summary(reading.path, problems, reading.read, remedy))
    written = None
    if bad_rows == "quarantine":
        store = Quarantine(quarantine or default_path(Path(reading.path)))
        for record, fault in reading.refused:
            store.add(record, f"{reading.path}:{record.line}", fault)
        written = store.write()
    if not reading.rows:
        raise DataError(_summary(reading.path, problems, reading.read, "no row is left"))
    return ReadReport(
        rows=reading.rows,
        kept=reading.read - len(problems),
        rejected=len(problems),
        read=reading.read,
        problems=problems,
        format=reading.entry.name,
        unused=reading.unused(),
        quarantine=written,
        constitutions=tuple(reading.constitutions),
    )
