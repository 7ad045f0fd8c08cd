"""Finished calls, kept so that none is made twice: an append-only line file whose first line says what it belongs to.

Resuming a job reads it, skips what is there, and goes on. A journal of another model, other settings or other data is
refused. Each line carries the sha256 of itself and of the line before, so a byte that was changed later is found, and
where: a journal is an audit log too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from trueup.errors import RunError
from trueup.runs.metrics import JsonlWriter, encode_line, read_jsonl

GENESIS = "0" * 64


def _hash(previous: str, body: Mapping[str, Any]) -> str:
    """sha256 over the hash of the line before and this line without its own."""
    return hashlib.sha256(previous.encode() + encode_line(body)).hexdigest()


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal, each one checked: first ``{"journal": identity}``, then ``{"key", "record"}``.

    Raises:
        RunError: ``path:line:`` the first line that is not what was written.
    """
    lines = read_jsonl(path)
    previous, raw = GENESIS, path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        body = {name: value for name, value in line.items() if name != "hash"}
        previous = _hash(previous, body)
        if line.get("hash") != previous or encode_line(line) != raw[number - 1] + b"\n":
            raise RunError(
                f"{path}:{number}: not the line that was written (its hash does not match); put the file back as it was"
            )
        yield body
    if lines.torn is not None:
        raise RunError(f"{path}:{len(lines) + 1}: unfinished; the job that writes it cuts it off when it goes on")


class Journal:
    """Records by key.

    Args:
        path: the file; made if absent.
        identity: what the records depend on; written first, compared when the file is there.

    Attributes:
        records: key -> record, in the order in which they were added.
        resumed: how many were there when it was opened.

    Raises:
        RunError: the file belongs to something else, is damaged, or another process is writing to it.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._writer = JsonlWriter(path)
        self._lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise RunError(f"{path}: another process is writing to it") from None
        self._last = GENESIS
        self.records: dict[str, dict[str, Any]] = {}
        try:
            self._read(identity)
        except RunError:
            self.close()
            raise
        self.resumed = len(self.records)

    def _read(self, identity: Mapping[str, Any]) -> None:
        raw = read_jsonl(self.path)
        if not raw:
            self._append({"journal": dict(identity)})
            return
        if (kept := raw[0].get("journal")) is None:
            raise RunError(f"{self.path}: is there and is no journal of an interrupted job; move it away")
        self._compare(kept, identity)
        lines = list(read_journal(self.path))
        self._last = raw[-1]["hash"]
        self.records.update({line["key"]: line["record"] for line in lines[1:]})

    def _append(self, body: Mapping[str, Any]) -> None:
        """Adds a line with its hash; a failed write leaves the chain as it was."""
        mark = _hash(self._last, body)
        self._writer.append({**body, "hash": mark})
        self._last = mark

    def _compare(self, kept: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        for name in {*kept, *identity}:
            if kept.get(name) != identity.get(name):
                raise RunError(
                    f"{self.path}: was begun with {name} {kept.get(name)!r}, and is now asked to go on with "
                    f"{identity.get(name)!r}; use what it was begun with, or remove the file to begin anew"
                )

    def __contains__(self, key: str) -> bool:
        return key in self.records

    def add(self, key: str, record: Mapping[str, Any]) -> None:
        """Keeps a finished call.

        Raises:
            ResourceError: the disk is full; what is there stays.
        """
        self._append({"key": key, "record": dict(record)})
        self.records[key] = dict(record)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Closes and deletes the file: the job is done and its result is written."""
        self.close()
        self.path.unlink()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
