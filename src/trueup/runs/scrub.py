"""Keeps secrets out of everything that is written: the last thing every config, manifest and sink passes through.

A secret is: the value of an environment variable whose name says so, the user-info of a URL, the value after an option
or key that names a secret, an authorization header, a token of a well-known shape, and whatever :func:`remember` was
told. Each is replaced by ``***``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

MASK = "***"
_SHORTEST = 6  # shorter values are words like "true", and masking them would maim innocent text

_NAMES_SECRET = re.compile(
    r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?(_?\d+)?(_|$)(?!PATH$|FILE$|DIR$|HOME$|ID$)",
    re.IGNORECASE,
)
_KEY_SECRET = re.compile(
    r"(?i)^(.*[-_.])?(((api|access|auth|hf|hub|bearer|refresh|private|secret|session|wandb|write)[-_]?(key|token))"
    r"|apikey|secret|client[-_]?secret|password|passwd|passphrase|credentials?|(proxy-)?authorization|cookie)$"
    r"|^(.*\.)?token$"
)
_USER_INFO = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@'\"?#]+@")
_HEADER = re.compile(
    r"(?i)\b(authorization|x-api-key|api-key|cookie)(\"?'?\s*[:=]\s*\"?'?)((bearer|basic|token)\s+)?[^\s\"',;]+"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+(?=\S*\d)[A-Za-z0-9._~+/=-]{8,}")
_SHAPES = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16})"
)
_INLINE = re.compile(
    r"(?i)(?<![\w-])((?:--)?(?:[\w-]+\.)*(?:(?:api|access|auth|hf|hub)[-_]?(?:key|token)|token|secret|password|passwd)=)"
    r"(?!\s)[^\s&\"',;]+"
)

_remembered: set[str] = set()


def remember(secret: str) -> None:
    """Declares a secret that came from a file or a prompt; from now on it is never written."""
    if secret.strip():
        _remembered.add(secret.strip())


def secret_name(name: str) -> bool:
    """Whether a key or option of this name holds a secret."""
    return bool(_KEY_SECRET.match(name.lstrip("-")))


def scrub(value: Any) -> Any:
    """The same value with every secret replaced by ``***``; dicts and lists are gone through.

    In a list of command-line words, the word after ``--api-key`` and its like is a secret too.
    """
    return _scrub(value, _known())


def _known() -> list[str]:
    found = {v.strip() for n, v in os.environ.items() if _NAMES_SECRET.search(n)}
    found = {v for v in found if len(v) >= _SHORTEST} | _remembered
    found |= {quote(v, safe="") for v in found}
    return sorted(found, key=len, reverse=True)


def _scrub(value: Any, known: list[str]) -> Any:
    if isinstance(value, str):
        return _text(value, known)
    if isinstance(value, Mapping):
        return {
            _text(k, known) if isinstance(k, str) else k: MASK
            if isinstance(k, str) and secret_name(k) and isinstance(v, str) and v
            else _scrub(v, known)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        words = [
            MASK if i and isinstance(v, str) and _option(value[i - 1]) and not v.startswith("--") else _scrub(v, known)
            for i, v in enumerate(value)
        ]
        return words if isinstance(value, list) else tuple(words)
    return value


def _option(word: Any) -> bool:
    return isinstance(word, str) and word.startswith("-") and secret_name(word)


def _text(text: str, known: list[str]) -> str:
    for secret in known:
        text = text.replace(secret, MASK)
    text = _USER_INFO.sub(rf"\1{MASK}@", text)
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _INLINE.sub(rf"\1{MASK}", text)
    return _SHAPES.sub(MASK, text)
