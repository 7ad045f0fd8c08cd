"""Write rows to a file that appears complete or not at all."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from trueup.data.files import file_kind
from trueup.errors import DataError, ResourceError
from trueup.runs.disk import sweep_for, temporary_for


@contextlib.contextmanager
def whole_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path``; on success its file is made durable and renamed, on failure removed.

    Raises:
        DataError: the file exists already, or its folder does not.
        ResourceError: the system refuses the write (disk full, no permission).
    """
    if os.path.lexists(path) and not overwrite:
        raise DataError(f"{path}: exists already; name another file or ask for it to be overwritten")
    if not os.path.isdir(path.parent):
        raise DataError(f"{path}: the folder {path.parent} does not exist")
    draft = temporary_for(path)
    try:
        yield draft
        with draft.open("rb+") as stream:
            os.fsync(stream.fileno())
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        sweep_for(path)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written: {error.strerror or error}; nothing was changed") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def json_text(value: Any) -> str:
    """JSON on one line, characters as they are; what JSON cannot say (dates, bytes) as text."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)


@contextlib.contextmanager
def _packed(path: Path, packing: str | None) -> Iterator[IO[bytes]]:
    with path.open("wb") as raw:
        if packing == "gzip":
            # No name and no time in the header: the same rows give the same bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
                yield stream  # pyright: ignore[reportReturnType]
        elif packing == "zstd":
            with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as stream:
                yield stream  # pyright: ignore[reportReturnType]
        else:
            yield raw


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]], *, overwrite: bool = False) -> int:
    """Write rows as the name of the file says: .jsonl, .json, .csv or .parquet, each also with .gz or .zst.

    In a CSV a list or an object is written as JSON text; in Parquet so is a column that Arrow cannot give back as it
    was (turns with different keys).

    Args:
        path: file to write.
        rows: dictionaries, as :func:`trueup.data.convert.convert` yields them.
        overwrite: whether an existing file may be replaced.

    Returns:
        The number of rows.

    Raises:
        DataError: the file exists, its folder does not, or its name says no known kind.
        ResourceError: the system refuses the write.
    """
    path = Path(path)
    kind = file_kind(path)
    with whole_file(path, overwrite=overwrite) as draft, _packed(draft, kind.packing) as stream:
        return {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet}[kind.content](stream, rows)


def _jsonl(stream: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007
        stream.write(json_text(row).encode("utf-8") + b"\n")
    return count


def _json(stream: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    stream.write(b"[")
    for row in rows:
        stream.write((b",\n" if count else b"\n") + json_text(row).encode("utf-8"))
        count += 1
    stream.write(b"\n]\n")
    return count


def _columns(rows: list[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, str) else json_text(value)


def _csv(stream: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> int:
    held = list(rows)
    names = _columns(held)
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    table = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    table.writerow(names)
    for row in held:
        table.writerow([_cell(row.get(name)) for name in names])
    text.flush()
    text.detach()
    return len(held)


def _plain(value: Any, depth: int = 2) -> bool:
    """Whether a value is a scalar, or a list of scalars or of objects of scalars."""
    if isinstance(value, Mapping):
        return bool(value) and depth < 2 and all(_plain(item, 0) for item in value.values())
    if isinstance(value, (list, tuple)):
        return depth == 2 and all(_plain(item, 1) for item in value)
    return True


def _array(values: list[Any]) -> pa.Array:
    """The values as an Arrow column, as JSON text where Arrow would not give them back unchanged."""
    with contextlib.suppress(pa.ArrowException):
        column = pa.array(values) if all(map(_plain, values)) else None
        if column is not None and column.to_pylist() == values:
            return column
    return pa.array([value if value is None or isinstance(value, str) else json_text(value) for value in values])


def _parquet(stream: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> int:
    held = list(rows)
    names = _columns(held)
    table = pa.table({name: _array([row.get(name) for row in held]) for name in names})
    pq.write_table(table, stream)
    return len(held)
