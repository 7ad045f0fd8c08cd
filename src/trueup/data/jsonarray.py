"""Cuts the elements of one JSON array out of a byte stream without reading them as JSON.

Only quotes, backslashes, brackets and commas are looked at, so that a fault inside one row stays inside it, and the
memory needed is that of one row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from trueup.data import files
from trueup.data.files import Line
from trueup.errors import DataError

_MARK = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')
_VISIBLE = re.compile(rb"[^ \t\r\n]")


class Elements:
    """The state of the cut; feed it once, with :meth:`cut`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.depth = 0
        self.in_string = self.escaped = self.comma = self.closed = False
        self.line, self.offset = 1, 0
        self.held = bytearray()
        self.begin: tuple[int, int] | None = None
        self.length = 0

    def cut(self, pieces: Iterable[bytes]) -> Iterator[Line]:
        """The elements, in order.

        Raises:
            DataError: text around the array, a comma too many, or an array that does not end.
        """
        for piece in pieces:
            position = 0
            while position < len(piece):
                step = self._inside if self.begin else self._between
                position, done = step(piece, position)
                if done is not None:
                    yield done
        if not self.closed:
            line = self.begin[0] if self.begin else self.line
            raise DataError(
                f"{self.path}:{line}: the array does not end: the row that starts here is cut off, or has a quote or "
                "bracket too many"
            )

    def _pass(self, piece: bytes, start: int, end: int, *, keep: bool) -> None:
        self.line += piece.count(b"\n", start, end)
        self.offset += end - start
        if keep:
            self.length += end - start
            if self.length <= files.LINE_LIMIT:
                self.held += memoryview(piece)[start:end]
            else:
                self.held.clear()

    def _between(self, piece: bytes, start: int) -> tuple[int, Line | None]:
        """White space, the brackets of the array, and the first byte of an element, which is not consumed."""
        found = _VISIBLE.search(piece, start)
        end = found.start() if found else len(piece)
        self._pass(piece, start, end, keep=False)
        if found is None:
            return end, None
        mark = found[0]
        if self.closed or (self.depth == 0 and mark != b"["):
            raise DataError(f"{self.path}:{self.line}: {mark!r} stands outside of the array of rows")
        if self.depth == 0:
            self.depth = 1
        elif mark in b",]":
            if self.comma or mark == b",":
                raise DataError(f"{self.path}:{self.line}: a comma without a row on both sides")
            self.closed = True
        else:
            self.begin = (self.line, self.offset)
            return end, None
        self._pass(piece, end, end + 1, keep=False)
        return end + 1, None

    def _inside(self, piece: bytes, start: int) -> tuple[int, Line | None]:
        """Up to and with the next byte that matters inside an element."""
        if self.escaped:
            self.escaped = False
            self._pass(piece, start, start + 1, keep=True)
            return start + 1, None
        found = (_IN_STRING if self.in_string else _MARK).search(piece, start)
        end = found.start() if found else len(piece)
        self._pass(piece, start, end, keep=True)
        if found is None:
            return end, None
        mark = found[0]
        if not self.in_string and self.depth == 1 and mark in b",]":
            self._pass(piece, end, end + 1, keep=False)
            return end + 1, self._flush(mark)
        self._mark(mark)
        self._pass(piece, end, end + 1, keep=True)
        return end + 1, None

    def _mark(self, mark: bytes) -> None:
        if mark == b"\\":
            self.escaped = True
        elif mark == b'"':
            self.in_string = not self.in_string
        elif mark in b"[{":
            self.depth += 1
        elif mark in b"]}" and self.depth > 1:
            self.depth -= 1

    def _flush(self, mark: bytes) -> Line:
        begin = self.begin or (self.line, self.offset)
        raw = bytes(self.held) if self.length <= files.LINE_LIMIT else None
        done = Line(*begin, raw, self.length)
        self.held.clear()
        self.begin, self.length = None, 0
        self.comma, self.closed = mark == b",", mark == b"]"
        return done
