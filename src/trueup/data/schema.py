"""Which format a file's rows have: recognised by their fields, or named, with columns mapped to our names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from trueup.data.fields import Fields, Kind, Source, decoded, shown
from trueup.data.formats import FORMATS, Format
from trueup.errors import DataError

IGNORE = "-"


def known_fields() -> set[str]:
    """Every field name that some format reads."""
    return {name for entry in FORMATS.values() for name in entry.known()} | {"images", "chat_template_kwargs"}


def near(name: str, names: Sequence[str]) -> str:
    """``; did you mean 'x'?`` or nothing."""
    found = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def named_format(name: str) -> Format[Any] | None:
    """The format with this name, None for ``auto``.

    Raises:
        DataError: there is no such format.
    """
    if name == "auto":
        return None
    if name not in FORMATS:
        raise DataError(f"unknown format {name!r}{near(name, list(FORMATS))}; known are auto, {', '.join(FORMATS)}")
    return FORMATS[name]


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse a mapping to a field that no format reads, or of two fields to one column.

    Raises:
        DataError: naming the field.
    """
    known = sorted(known_fields())
    for ours in columns:
        if ours not in known:
            raise DataError(f"--data.columns: no format has a field {ours!r}{near(ours, known)}")
    taken = [theirs for theirs in columns.values() if theirs != IGNORE]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"--data.columns: the column {twice!r} is mapped twice")


def mapped(fields: Fields, columns: Mapping[str, str]) -> Fields:
    """The row with the mapped columns under our names; a column mapped to ``-`` is left out."""
    if not columns:
        return fields
    theirs = set(columns.values())
    rest = {name: value for name, value in fields.items() if name not in theirs and name not in columns}
    return rest | {ours: fields[name] for ours, name in columns.items() if name in fields}


def _looked_at(fields: Fields, kind: Kind) -> Fields:
    """The row as recognition sees it: lists that a CSV or Parquet cell holds as text are lists, empty cells absent."""
    if kind == "json":
        return fields
    source = Source("", "", kind)
    return {name: decoded(value, source) for name, value in fields.items() if kind != "csv" or value != ""}


def _names(rows: Sequence[Fields]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:20])) + (", ..." if len(names) > 20 else "") if names else "none"


def _lacking(entry: Format[Any], present: set[str]) -> list[str]:
    spellings = entry.aliases or {}
    return [
        name
        for name in entry.required
        if name not in present and not any(other in present for other in spellings.get(name, ()))
    ]


def _missing_message(path: str, entry: Format[Any], names: list[str], *, nearest: bool) -> str:
    lacking = _lacking(entry, set(names))
    hints = [near(name, [other for other in names if other not in entry.required]) for name in lacking]
    begin = f"{path}: no format fits; the nearest is" if nearest else f"{path}: the format"
    return (
        f"{begin} {entry.name!r}, which lacks the column {_listed(lacking)}; the file has {_listed(names)}"
        f"{next((hint for hint in hints if hint), '')}. Map columns with --data.columns (our field: the file's column) "
        "or name the format with --data.format"
    )


def choose(path: str, sample: Sequence[tuple[Fields, Kind]], name: str = "auto") -> Format[Any]:
    """The format of a file.

    Args:
        path: the file, for messages.
        sample: rows with columns mapped, and the kind of file they stand in.
        name: a format's name, or ``auto``.

    Raises:
        DataError: no format fits, or several fit equally well, or the named one lacks a column in every row.
    """
    rows = [_looked_at(fields, kind) for fields, kind in sample]
    names = _names([fields for fields, _ in sample])
    chosen = named_format(name)
    if chosen is not None:
        if _lacking(chosen, set(names)):
            raise DataError(_missing_message(path, chosen, names, nearest=False))
        return chosen
    best = _best(rows) or _by_names(rows)
    if not best:
        raise DataError(_missing_message(path, _nearest(names), names, nearest=True))
    if len(best) > 1:
        raise DataError(
            f"{path}: the rows fit the formats {' and '.join(repr(entry.name) for entry in best)} equally well; "
            f"say which with --data.format (columns: {_listed(names)})"
        )
    return best[0]


def _best(rows: Sequence[Fields]) -> list[Format[Any]]:
    """The formats that fit the most rows; of those, the ones whose fit says the most."""
    scores = {name: (sum(map(entry.recognise, rows)), entry.rank) for name, entry in FORMATS.items()}
    fitting = {name for name, (count, _) in scores.items() if count}
    top = max((scores[name] for name in fitting), default=None)
    return [FORMATS[name] for name in FORMATS if name in fitting and scores[name] == top]


def _by_names(rows: Sequence[Fields]) -> list[Format[Any]]:
    """Where the values have no known shape: the plainest format with the right columns, to say what is wrong."""
    scores = [(sum(map(entry.has_fields, rows)), len(entry.required), entry) for entry in FORMATS.values()]
    best = max(scores, key=lambda score: score[:2])
    return [best[2]] if best[0] else []


def _nearest(names: list[str]) -> Format[Any]:
    """The format whose fields are nearest to the column names; misspelt names count a half."""

    def score(entry: Format[Any]) -> float:
        present = len(entry.required) - len(_lacking(entry, set(names)))
        alike = sum(bool(near(name, names)) for name in _lacking(entry, set(names)))
        return (present + 0.5 * alike) / len(entry.required)

    possible = [entry for entry in FORMATS.values() if not set(entry.foreign) & set(names)]
    return max(possible, key=score)
