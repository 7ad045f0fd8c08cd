"""Bytes of a data file: what kind it is by its name, decompressed in bounded pieces, and lines cut out of it.

A file that ends too early is an error of the whole file (DataError): the rows before the break are not taken in
silence. A single line that is too long is an error of that line.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from trueup.errors import DataError

LINE_LIMIT = 20_000_000
NO_LINES_LIMIT = 1_000_000_000
_BOMB_FLOOR, _BOMB_RATIO = 32_000_000, 200
_READ = 1024
_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_MAGIC = {
    b"\x1f\x8b": "a gzip file; name it .gz",
    b"\x28\xb5\x2f\xfd": "a zstd file; name it .zst",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"PAR1": "a Parquet file; name it .parquet",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}
BOM = b"\xef\xbb\xbf"


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file's name says: jsonl, json, csv or parquet, and gzip, zstd or no packing."""

    content: str
    packing: str | None


def has_known_name(path: Path) -> bool:
    """Whether a name ends like that of a data file."""
    return any(suffix.lower() in _KINDS for suffix in path.suffixes[-2:])


def file_kind(path: Path) -> FileKind:
    """The kind of a data file by its name.

    Raises:
        DataError: the name says nothing that can be read.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = _PACKED.get(suffixes[-1]) if suffixes else None
    content = suffixes[-2] if packing and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    if content not in _KINDS:
        raise DataError(
            f"{path}: unknown kind of file {content or path.name!r}; names end in .jsonl, .json, .csv or .parquet, "
            "each also with .gz or .zst"
        )
    return FileKind(_KINDS[content], packing)


def _new_gzip() -> _Decoder:
    return zlib.decompressobj(wbits=31)


def _new_zstd() -> _Decoder:
    return zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()


def _unpacked(path: Path, stream: BinaryIO, packing: str) -> Iterator[bytes]:
    """Decompress member after member; small inputs bound what one call can blow up to."""
    make: Callable[[], _Decoder] = _new_gzip if packing == "gzip" else _new_zstd
    decoder, started, taken, given = make(), False, 0, 0
    while data := stream.read(_READ):
        taken += len(data)
        while data:
            if decoder.eof:
                decoder, started = make(), False
                data = data.lstrip(b"\0")
                continue
            try:
                piece = decoder.decompress(data)
            except (zlib.error, zstandard.ZstdError) as error:
                raise DataError(f"{path}: damaged or not {packing} data near byte {taken} ({error})") from None
            started = True
            data = decoder.unused_data if decoder.eof else b""
            given += len(piece)
            if given > _BOMB_FLOOR and given > _BOMB_RATIO * taken:
                raise DataError(
                    f"{path}: unpacks to more than {_BOMB_RATIO} times its size; if that is meant, unpack it first"
                )
            if piece:
                yield piece
    if started and not decoder.eof:
        raise DataError(f"{path}: the {packing} data end too early: the file is truncated; fetch or pack it again")


def chunks(path: Path, packing: str | None, *, binary: bool = False) -> Iterator[bytes]:
    """The file's bytes in pieces, decompressed; of text without a byte order mark.

    Raises:
        DataError: the file cannot be opened or read, or its compressed data are damaged or truncated.
    """
    try:
        with path.open("rb") as stream:
            pieces = _unpacked(path, stream, packing) if packing else iter(lambda: stream.read(1 << 16), b"")
            first = b"" if binary else _first(pieces)
            _refuse_binary(path, first)
            if first:
                yield first.removeprefix(BOM)
            yield from pieces
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _first(pieces: Iterator[bytes]) -> bytes:
    first = b""
    while len(first) < len(BOM) + 1 and (piece := next(pieces, b"")):
        first += piece
    return first


def _refuse_binary(path: Path, first: bytes) -> None:
    for magic, what in _MAGIC.items():
        if first.startswith(magic):
            raise DataError(f"{path}: the content is {what}")
    head = first[:4096]
    odd = sum(byte < 32 and byte not in b"\t\n\r\f\b\x1b" for byte in head)
    if odd > 0.05 * len(head):
        raise DataError(f"{path}: is a binary file, not text")


@dataclass(frozen=True, slots=True)
class Line:
    """One line (or one element of a JSON array).

    Attributes:
        number: line on which it starts, from 1.
        offset: byte at which it starts in the unpacked file (a byte order mark not counted).
        raw: its bytes without the line feed, or None where it is longer than the limit.
        length: its length in bytes.
    """

    number: int
    offset: int
    raw: bytes | None
    length: int


def lines(path: Path, pieces: Iterable[bytes], limit: int = LINE_LIMIT) -> Iterator[Line]:
    """Cut lines at line feeds; of a line over ``limit`` bytes only the length is kept.

    Raises:
        DataError: no line feed for a gigabyte.
    """
    number, offset, length = 1, 0, 0
    held = bytearray()
    for piece in pieces:
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            length += end - start
            if length <= limit:
                held += memoryview(piece)[start:end]
            yield Line(number, offset, bytes(held) if length <= limit else None, length)
            number, offset, length, start = number + 1, offset + length + 1, 0, end + 1
            held.clear()
        length += len(piece) - start
        if length <= limit:
            held += memoryview(piece)[start:]
        else:
            held.clear()
        if length > NO_LINES_LIMIT:
            raise DataError(f"{path}:{number}: no end of line within {NO_LINES_LIMIT} bytes: not a file of rows")
    if length:
        yield Line(number, offset, bytes(held) if length <= limit else None, length)
