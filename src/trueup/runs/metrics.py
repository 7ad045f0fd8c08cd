"""Line files (``metrics.jsonl``, ``timings.jsonl``, ``samples.jsonl``): one JSON object a line, appended whole.

JSON is strict. A non-finite number is written as the string ``"nan"``, ``"inf"`` or ``"-inf"``, never left out and
never turned into a finite one; :func:`number` reads it back. ``step`` and ``loss`` come first, the other keys in
alphabetical order, so that equal content gives equal bytes.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trueup.errors import RunError, TrueupError
from trueup.runs.disk import fsync_folder, guard, write_all
from trueup.runs.encode import parse, plain

log = logging.getLogger(__name__)

_FIRST = ("step", "loss")
_WORDS = {"nan", "inf", "-inf"}


class Records(list[dict[str, Any]]):
    """The objects of a line file.

    Attributes:
        torn: the start of a last line that was never finished, or None.
    """

    torn: str | None = None


class JsonlWriter:
    """Appends to a line file; each line goes to the system whole, at once.

    Opening cuts off a last line that a crash left unfinished, and says so in the log.

    Args:
        path: the file; made if absent.

    Raises:
        ResourceError: disk full, no permission and the like.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with guard(path, "opening"):
            new = not path.exists()
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            if new:
                fsync_folder(path.parent)
        self._size = os.fstat(self._descriptor).st_size
        complete = _complete(self._descriptor, self._size)
        if complete < self._size:
            log.warning("%s: cut off an unfinished last line of %d bytes", path, self._size - complete)
            self._cut(complete)

    def append(self, obj: Mapping[str, Any]) -> None:
        """Adds one line.

        Raises:
            ResourceError: disk full and the like; no part of the line stays.
            TrueupError: a value that JSON cannot hold.
        """
        line = encode_line(obj)
        with guard(self.path, "adding a line"):
            try:
                write_all(self._descriptor, line)
            except OSError:
                os.ftruncate(self._descriptor, self._size)
                raise
        self._size += len(line)

    def offset(self) -> int:
        """Bytes written so far: the place a checkpoint remembers."""
        return self._size

    def truncate_to(self, offset: int) -> None:
        """Forgets the lines after ``offset``: those of steps that a resumed run takes again.

        Raises:
            RunError: the file is shorter than that, or ``offset`` is not the end of a line.
        """
        if offset > self._size:
            raise RunError(
                f"{self.path}: {self._size:,} bytes, but the checkpoint was saved after {offset:,}; lines are missing, "
                "so the run cannot be resumed exactly. Put the file back, or start a new run with another --out"
            )
        if offset < 0 or (offset and os.pread(self._descriptor, 1, offset - 1) != b"\n"):
            raise RunError(
                f"{self.path}: byte {offset:,} is not the end of a line, so the file is not the one that the "
                "checkpoint was saved with. Put the file back, or start a new run with another --out"
            )
        self._cut(offset)

    def _cut(self, offset: int) -> None:
        with guard(self.path, "cutting off lines"):
            os.ftruncate(self._descriptor, offset)
        self._size = offset

    def fsync(self) -> None:
        """Makes the lines survive a power cut; to be called before the checkpoint that remembers their offset."""
        with guard(self.path, "writing"):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cut_lines(path: Path, offset: int) -> None:
    """Forgets the lines after byte ``offset``; a file without a line is no file, as if none had been written.

    Raises:
        RunError: see :meth:`JsonlWriter.truncate_to`; also when the file is missing and ``offset`` is not 0.
    """
    if offset == 0:
        path.unlink(missing_ok=True)
        return
    with JsonlWriter(path) as writer:
        writer.truncate_to(offset)


def _complete(descriptor: int, size: int) -> int:
    """Length of the file up to the end of its last finished line."""
    end = size
    while end > 0:
        start = max(0, end - (1 << 16))
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def encode_line(obj: Mapping[str, Any]) -> bytes:
    """One line of strict JSON with its newline; ``step`` and ``loss`` first, then by name."""
    value = plain(obj, words=True)
    if not isinstance(value, dict):
        raise TrueupError(f"a line holds one object, not a {type(obj).__name__}")
    order = [k for k in _FIRST if k in value] + sorted(k for k in value if k not in _FIRST)
    text = json.dumps({k: value[k] for k in order}, allow_nan=False)
    return text.encode() + b"\n"


def read_jsonl(path: Path) -> Records:
    """Reads a line file; only a last line without its end is tolerated, and reported in ``torn``.

    Raises:
        RunError: no such file, or ``path:line: reason`` for the first line that is not a JSON object.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error
    *lines, rest = raw.split(b"\n")
    records = Records()
    for index, line in enumerate(lines, start=1):
        try:
            value = parse(line)
        except ValueError as error:
            raise RunError(f"{path}:{index}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise RunError(f"{path}:{index}: not a JSON object")
        records.append(value)
    records.torn = rest.decode(errors="replace") if rest else None
    return records


def number(value: Any) -> float:
    """A logged number back as a float; ``"nan"``, ``"inf"`` and ``"-inf"`` are what they say.

    Raises:
        RunError: not a number.
    """
    if isinstance(value, str) and value in _WORDS:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RunError(f"{value!r} is not a number")
    return float(value)
