"""Safetensors files, written in a stream and checked before they are read.

Layout (https://github.com/safetensors/safetensors): 8 bytes little-endian header length, a JSON header, then the bytes
of the tensors, C-contiguous and little-endian. The writer streams straight from the tensors, so that a checkpoint costs
no copy of the weights; reading is left to the safetensors library.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from trueup.errors import RunError, TrueupError
from trueup.runs.disk import create, write_all
from trueup.runs.encode import CHUNK, parse

HEADER_LIMIT = 1 << 24

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def pieces(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """The bytes of a safetensors file, in pieces of at most 4 MiB; the same tensors give the same bytes.

    Tensors of wide types come first (every tensor is then aligned to its element size), by name within a type.

    Raises:
        TrueupError: a dtype that the format does not hold.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise TrueupError(f"tensor {name}: {tensor.dtype} cannot be stored in safetensors")
    order = sorted(tensors, key=lambda n: (-tensors[n].element_size(), n))
    header, end = {}, 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in order:
        dense = tensors[name].detach().to("cpu").contiguous()
        # as_strided and not reshape: one element of a strided tensor counts as contiguous, but view refuses its stride
        view = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy().data
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]


def digest(stream: Iterator[memoryview]) -> tuple[str, int]:
    """sha256 and length of the pieces."""
    sha, size = hashlib.sha256(), 0
    for piece in stream:
        sha.update(piece)
        size += len(piece)
    return sha.hexdigest(), size


def write(path: Path, stream: Iterator[memoryview]) -> tuple[str, int]:
    """Writes the pieces into a new file, fsyncs it, and returns sha256 and length, hashed on the way."""
    sha, size = hashlib.sha256(), 0
    descriptor = create(path)
    try:
        for piece in stream:
            write_all(descriptor, piece)
            sha.update(piece)
            size += len(piece)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return sha.hexdigest(), size


def read(path: Path) -> dict[str, torch.Tensor]:
    """Reads a safetensors file onto the CPU, after a check of its header.

    Raises:
        RunError: not a safetensors file (a pickle, say), or a header that is too long or does not fit the file.
    """
    check_header(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{path}: not a usable safetensors file: {error}") from error


def check_header(path: Path) -> None:
    """Looks at the first bytes only, so that a hostile file costs no memory.

    Raises:
        RunError: what is wrong, in one line.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            kind = " (it looks like a pickle, which trueup never reads)" if _pickled(start) else ""
            raise RunError(f"{path}: not a safetensors file{kind}")
        if length > HEADER_LIMIT:
            raise RunError(f"{path}: refused: a header of {length:,} bytes (at most {HEADER_LIMIT:,})")
        header = stream.read(length)
    try:
        if not isinstance(parse(header), dict):
            raise ValueError("the header is no object")
    except ValueError as error:
        raise RunError(f"{path}: not a safetensors file: {error}") from error


def _pickled(start: bytes) -> bool:
    return start[:1] == b"\x80" or start[:4] == b"PK\x03\x04"
