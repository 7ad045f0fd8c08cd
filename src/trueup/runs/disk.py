"""Bytes on disk that survive a crash: every write of this package goes through here.

A whole file appears under its name complete or not at all; :func:`guard` turns what the operating system refuses into
one clear line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from trueup.errors import ResourceError

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would pass the size limit of this system",
    errno.EIO: "the disk reported an input/output error",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "the file system is read-only",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: "out of memory",
}


def free_space(path: Path) -> str:
    """Free bytes of the file system that holds ``path``, in words."""
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB free"
    return "free space unknown"


@contextlib.contextmanager
def guard(path: Path, doing: str) -> Iterator[None]:
    """Turns a refusal of the operating system into one line with the remedy.

    Args:
        path: what is being written.
        doing: the present participle that starts the message, as in "writing".

    Raises:
        ResourceError: disk full, quota, input/output error, no permission, read-only.
    """
    try:
        yield
    except OSError as error:
        reason = _REFUSALS.get(error.errno or 0)
        if reason is None:
            raise
        where = error.filename if isinstance(error.filename, str) else str(path)
        raise ResourceError(
            f"{where}: {reason} while {doing} ({os.strerror(error.errno or 0)}; {free_space(path)}). "
            "What was complete before is untouched; make room or mend the permissions, then run `trueup resume`"
        ) from error


def create(path: Path) -> int:
    """Opens a new file for writing; an existing one, or a symbolic link, is an error."""
    return os.open(path, _CREATE, 0o644)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes all of ``data``; the kernel may take it in pieces."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(descriptor, view[: 1 << 30]) :]


def fsync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes) -> None:
    """Writes and fsyncs a file that must not exist yet."""
    descriptor = create(path)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replaces ``path`` as a whole: a reader, and a crash, see the old content or the new one.

    Raises:
        ResourceError: disk full and the like; the old content is intact and nothing is left over.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = temporary_for(path)
    with guard(path, "writing"):
        try:
            write_new(temporary, raw)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        fsync_folder(path.parent)
        sweep_for(path)


def temporary_for(path: Path) -> Path:
    """A name beside ``path`` to make it under."""
    return path.with_name(f".{path.name}.{temporary_suffix()}")


def temporary_suffix() -> str:
    """``tmp-<pid>-<nonce>``: whose it is can be told later."""
    return f"tmp-{os.getpid()}-{secrets.token_hex(4)}"


def abandoned(name: str) -> bool:
    """True for a name with :func:`temporary_suffix` whose process is gone, or is this one."""
    head, mark, tail = name.rpartition(".tmp-")
    pid, dash, nonce = tail.partition("-")
    if not (head and mark and dash and nonce and pid.isdecimal()):
        return False
    return int(pid) == os.getpid() or not _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:
        return False
    return True


def remove_tree(path: Path) -> None:
    """Removes a folder and what it holds, never following a symbolic link."""
    shutil.rmtree(path)


def sweep(folder: Path) -> list[Path]:
    """Removes the temporary files and folders that dead processes left in ``folder``; returns them."""
    found = sorted(os.scandir(folder), key=lambda e: e.name)
    return [_removed(entry) for entry in found if abandoned(entry.name)]


def sweep_for(path: Path) -> None:
    """Removes what other processes, now dead, left of making ``path``; for use when it has been made."""
    own = f".tmp-{os.getpid()}-"
    with contextlib.suppress(FileNotFoundError):  # another process sweeps too
        for entry in list(os.scandir(path.parent)):
            if entry.name.startswith(f".{path.name}.tmp-") and own not in entry.name and abandoned(entry.name):
                _removed(entry)


def _removed(entry: os.DirEntry[str]) -> Path:
    if entry.is_dir(follow_symlinks=False):
        remove_tree(Path(entry.path))
    else:
        os.unlink(entry.path)
    return Path(entry.path)
