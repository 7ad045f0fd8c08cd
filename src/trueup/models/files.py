"""Folders that appear whole or not at all, hashes of files, and a transformers that keeps quiet."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from trueup.errors import ResourceError, RunError
from trueup.runs.disk import sweep_for, temporary_for

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def says_disk_full(text: str) -> bool:
    """Whether another program's message tells of a full disk."""
    return any(words in text for words in _FULL_WORDS)


@contextlib.contextmanager
def full_disk_named(where: Path) -> Iterator[None]:
    """Within it, a write that fails for want of space raises a :class:`ResourceError` that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ResourceError(f"{where}: the disk is full ({error.strerror}); nothing was left behind") from None
    except SafetensorError as error:
        if not says_disk_full(str(error)):
            raise
        raise ResourceError(f"{where}: the disk is full ({error}); nothing was left behind") from None


@contextlib.contextmanager
def building(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives an empty folder to fill; when the block ends well it takes its place under its own name in one rename.

    Args:
        folder: the name to publish under.
        replace: whether a folder of that name may be there already; it is moved away only when the new one is whole.

    Yields:
        The folder to fill, beside its final place.

    Raises:
        RunError: the name is taken and ``replace`` is False.
        ResourceError: the disk is full; whatever had been written is gone again.
    """
    if not replace and os.path.lexists(folder):
        raise RunError(f"{folder}: exists already; name another folder or remove this one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = temporary_for(folder)
    try:
        with full_disk_named(folder):
            draft.mkdir()
            yield draft
            _sync(draft)
        _publish(draft, folder, replace=replace)
        sweep_for(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, folder: Path, *, replace: bool) -> None:
    old = draft.with_name(draft.name + ".old")
    moved = replace and folder.exists()
    if moved:
        folder.rename(old)
    try:
        draft.rename(folder)
    except OSError as error:
        if moved:
            old.rename(folder)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise RunError(f"{folder}: appeared while the new one was made; name another folder") from None
        raise
    _sync_one(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def quiet(*, stderr: bool = False) -> Iterator[None]:
    """Within it transformers draws no progress bars and reports no loading table (the caller checks the figures).

    Args:
        stderr: also swallow what is written to ``sys.stderr`` (the GGUF reader draws a bar that has no switch).
    """
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()) if stderr else contextlib.nullcontext(),
            warnings.catch_warnings(),
        ):
            # PEFT asks transformers a question by its former name; nobody but they can change that.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
