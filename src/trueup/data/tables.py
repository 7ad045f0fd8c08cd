"""Rows of tables: Parquet files, folders saved by the ``datasets`` library, and data sets of the hub.

A saved folder is read with Arrow alone, from the file names in its ``state.json``: no code and no pickle is in it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trueup.data.fields import RowFault
from trueup.data.files import chunks
from trueup.data.jsontext import check_values
from trueup.data.records import Record, table_row
from trueup.errors import DataError

_BATCH = 1024
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def _records(rows: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    for line, row in enumerate(rows, start=1):
        try:
            check_values(row)
        except RowFault as fault:
            yield Record(line, None, fault, table_row(row), "parquet")
        else:
            yield Record(line, row, None, None, "parquet")


def parquet_records(path: Path, packing: str | None) -> Iterator[Record]:
    """Records of a Parquet file; the line of a record is its row number.

    Raises:
        DataError: it is no Parquet file, or damaged.
    """
    try:
        if packing is None:
            with pq.ParquetFile(path) as table:
                yield from _parquet_rows(table)
            return
        with tempfile.TemporaryFile() as unpacked:
            for piece in chunks(path, packing, binary=True):
                unpacked.write(piece)
            unpacked.seek(0)
            with pq.ParquetFile(unpacked) as table:
                yield from _parquet_rows(table)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {_first_line(error)}") from None


def _parquet_rows(table: pq.ParquetFile) -> Iterator[Record]:
    yield from _records(row for batch in table.iter_batches(_BATCH) for row in batch.to_pylist())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_datasets_folder(path: Path) -> bool:
    """Whether a folder was saved by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``."""
    return any(os.path.isfile(path / name) for name in ("state.json", "dataset_dict.json"))


def folder_records(path: Path, split: str) -> Iterator[Record]:
    """Records of a folder saved by the ``datasets`` library.

    Args:
        path: the folder.
        split: which split, where there are several.

    Raises:
        DataError: no such split, or the folder is damaged.
    """
    if (path / "dataset_dict.json").is_file():
        splits = _json(path / "dataset_dict.json").get("splits", [])
        if split not in splits:
            raise DataError(f"{path}: has no split {split!r}; it has {', '.join(map(repr, splits))} (--data.split)")
        path = path / split
    state = _json(path / "state.json")
    if state.get("_indices_data_files"):
        raise DataError(
            f"{path}: was saved with an index of selected rows; save it again with a newer datasets library"
        )
    files = [_inside(path, item) for item in state.get("_data_files", [])]
    try:
        yield from _records(row for file in files for row in _arrow_rows(file))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Arrow: {_first_line(error)}") from None


def _inside(path: Path, item: Mapping[str, Any]) -> Path:
    name = item.get("filename") if isinstance(item, Mapping) else None
    if not isinstance(name, str) or name != Path(name).name or (path / name).is_symlink():
        raise DataError(f"{path}/state.json: {name!r} is not the name of a file in the folder")
    return path / name


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {_first_line(error)}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold an object")
    return value


def _arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            for start in range(0, batch.num_rows, _BATCH):
                yield from batch.slice(start, _BATCH).to_pylist()


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a data set on the hub (``owner/name``)."""
    return _HUB_ID.fullmatch(name) is not None


def hub_records(name: str, split: str) -> Iterator[Record]:
    """Records of a data set of the hub; code in a data set is never run.

    Raises:
        DataError: it is not there, or there is no network.
    """
    import datasets  # noqa: PLC0415 - a second to import, and needed for hub ids alone

    try:
        rows: Any = datasets.load_dataset(name, split=split)
    except Exception as error:
        raise DataError(
            f"{name}: is no local file, and the hub did not give its split {split!r}: {type(error).__name__}: "
            f"{_first_line(error)}. Give a local file, or check the name and the network"
        ) from error
    yield from _records(rows)
