"""Finished calls, kept so that none is made twice: an append-only line file whose first line says what it belongs to.

Resuming a job reads it, skips what is there, and goes on. A journal of another model, other settings or other data is
refused.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from trueup.errors import RunError
from trueup.runs.metrics import JsonlWriter, read_jsonl


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
        lines = read_jsonl(path)
        if not lines:
            self._writer.append({"journal": dict(identity)})
        elif (kept := lines[0].get("journal")) is None:
            self.close()
            raise RunError(f"{path}: is there and is no journal of an interrupted job; move it away")
        else:
            self._compare(kept, identity)
        self.records: dict[str, dict[str, Any]] = {line["key"]: line["record"] for line in lines[1:]}
        self.resumed = len(self.records)

    def _compare(self, kept: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        for name in {*kept, *identity}:
            if kept.get(name) != identity.get(name):
                self.close()
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
        self._writer.append({"key": key, "record": dict(record)})
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
