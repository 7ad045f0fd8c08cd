"""Strict JSON, the same bytes for the same content, and sha256 of files and values."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trueup.errors import TrueupError

CHUNK = 1 << 22

_SURROGATE = re.compile("[\ud800-\udfff]")


def plain(value: Any, *, words: bool = False, where: str = "") -> Any:
    """What strict JSON can hold, made of dict, list, str, int, float, bool and None.

    Tuples become lists; numpy and torch scalars become Python numbers.

    Args:
        value: anything.
        words: write non-finite floats as the strings ``nan``, ``inf`` and ``-inf`` instead of refusing them.
        where: dotted name of ``value``, for the message.

    Raises:
        TrueupError: a value, or a key that is not a string, that JSON cannot hold without changing it.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(float(value), words, where)
    if isinstance(value, Mapping):
        return {_key(k, where): plain(v, words=words, where=f"{where}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, words=words, where=f"{where}[{i}]") for i, v in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item(), words=words, where=where)
    raise TrueupError(f"{where or 'value'}: {type(value).__name__} cannot be written as JSON")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TrueupError(f"{where or 'object'}: key {key!r} is not a string, so JSON would change it")
    return key


def _number(value: float, words: bool, where: str) -> float | str:
    if math.isfinite(value):
        return value
    if words:
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    raise TrueupError(f"{where or 'value'}: {value} cannot be written as JSON")


def canonical(value: Any) -> bytes:
    """One line of strict JSON, keys sorted: equal values give equal bytes."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def pretty(value: Any) -> bytes:
    """Strict JSON for people, in the order given, with a newline at the end; lone surrogates stay escapes."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return (_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n").encode()


def parse(raw: bytes | str) -> Any:
    """Reads strict JSON.

    Raises:
        ValueError: not JSON, not UTF-8, NaN or Infinity, a key twice, or nested too deeply.
    """
    try:
        return json.loads(raw, parse_constant=_refuse, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same key twice in one object")
    return found


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(paths: Iterable[Path], root: Path | None = None) -> str:
    """sha256 over names (relative to ``root``, else bare) and contents of several files, in any order."""
    names = {(p.relative_to(root).as_posix() if root else p.name): p for p in sorted(paths)}
    return hash_json({name: hash_file(path) for name, path in names.items()})


def hash_json(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()
