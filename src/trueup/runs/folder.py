"""The run folder: its layout, how it is made, and the lock that keeps a second process out.

RUN/
├── config.yaml       the settings, resolved
├── manifest.json     versions, hashes, seeds, command line; written last: a folder without it is no run
├── metrics.jsonl     one object a step, reproducible to the byte
├── timings.jsonl     wall-clock figures
├── samples.jsonl     texts before and after
├── alarms.jsonl      what monitors said, and what was done about it
├── undone.jsonl      lines of steps that a rollback undid
├── audit.json        what the data check found
├── checkpoints/      step-000123/ ...
└── model/            the result
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from trueup.errors import RunError
from trueup.runs.disk import guard, sweep, write_atomic
from trueup.runs.encode import hash_json, parse, plain, pretty
from trueup.runs.environment import environment
from trueup.runs.scrub import scrub

log = logging.getLogger(__name__)

SCHEMA = 1
_LOCK = ".lock"
_HALF_MADE = {_LOCK, "config.yaml", "checkpoints"}


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file as a whole, secrets scrubbed.

    Raises:
        ResourceError: disk full and the like; an older file is intact.
        TrueupError: a value that strict JSON cannot hold.
    """
    write_atomic(path, pretty(scrub(plain(value))))


def write_yaml(path: Path, value: Any) -> None:
    """Writes a YAML file as a whole, secrets scrubbed. Raises as :func:`write_json`."""
    write_atomic(path, yaml.safe_dump(scrub(plain(value)), sort_keys=False, allow_unicode=True))


class RunFolder:
    """A run folder, held by this process alone until :meth:`close`.

    Attributes:
        path: the folder.
        config: what ``config.yaml`` holds.
        manifest: what ``manifest.json`` holds.
    """

    def __init__(self, path: Path, lock: int, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.manifest = manifest
        self._lock = lock

    @property
    def metrics(self) -> Path:
        """The file with one object a step."""
        return self.path / "metrics.jsonl"

    @property
    def timings(self) -> Path:
        """The file with wall-clock figures."""
        return self.path / "timings.jsonl"

    @property
    def samples(self) -> Path:
        """The file with sampled texts."""
        return self.path / "samples.jsonl"

    @property
    def alarms(self) -> Path:
        """The file with what monitors said."""
        return self.path / "alarms.jsonl"

    @property
    def undone(self) -> Path:
        """The file with the lines of steps that a rollback undid."""
        return self.path / "undone.jsonl"

    @property
    def audit(self) -> Path:
        """The file with what the data check found."""
        return self.path / "audit.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder of the result."""
        return self.path / "model"

    @classmethod
    def create(cls, path: Path | str, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> RunFolder:
        """Makes a run folder and takes its lock.

        A folder whose making was interrupted (no ``manifest.json``, nothing but what this function writes) is taken
        over. A failure leaves nothing behind.

        Args:
            path: the folder; absent or empty.
            config: the resolved settings.
            manifest: hashes of data and model, seeds, and whatever else the caller knows; versions, machine, git
                commit and command line are added here.

        Raises:
            RunError: the folder exists and is not empty, or another process holds it, or it cannot be made.
            ResourceError: disk full and the like.
        """
        path = Path(path).absolute()
        with _made(path):
            lock = _take_lock(path)
            with _kept_only_if_complete(path, lock):
                _check_unused(path)
                sweep(path)
                settings = scrub(plain(config))
                _warn_scrubbed(plain(config), settings)
                record = {"schema": SCHEMA, **environment(), **plain(manifest), "config_sha256": hash_json(settings)}
                write_yaml(path / "config.yaml", settings)
                with guard(path, "making the run folder"):
                    (path / "checkpoints").mkdir(exist_ok=True)
                write_json(path / "manifest.json", record)
        return cls(path, lock, settings, scrub(record))

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Opens an existing run folder and takes its lock.

        Raises:
            RunError: no run folder, half-made, of another version, damaged, or held by another process.
        """
        path = Path(path).absolute()
        config, manifest = read_run(path)
        return cls(path, _take_lock(path), config, manifest)

    def close(self) -> None:
        """Gives the folder free; a second call does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_run(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and manifest of a run folder, read without taking its lock.

    Raises:
        RunError: no run folder, half-made, of another version, or damaged.
    """
    if not path.is_dir():
        raise RunError(f"{path}: no such folder" if not path.exists() else f"{path}: not a folder, so not a run")
    if not (path / "manifest.json").is_file():
        half = (path / "config.yaml").is_file()
        raise RunError(
            f"{path}: "
            + (
                "making this run folder was interrupted (no manifest.json); start it again with `trueup train`"
                if half
                else "not a run folder (no manifest.json)"
            )
        )
    manifest = _read(path / "manifest.json", parse)
    if manifest.get("schema") != SCHEMA:
        raise RunError(
            f"{path / 'manifest.json'}: schema {manifest.get('schema')!r}, written by trueup "
            f"{manifest.get('versions', {}).get('trueup', 'of unknown version')}; this trueup reads schema {SCHEMA}"
        )
    config = _read(path / "config.yaml", yaml.safe_load)
    if hash_json(config) != manifest.get("config_sha256"):
        raise RunError(
            f"{path / 'config.yaml'}: changed since the run was started (sha256 {hash_json(config)}, the manifest "
            f"says {manifest.get('config_sha256')}); put it back, or start a new run with --config and another --out"
        )
    return config, manifest


def _read(path: Path, reader: Any) -> dict[str, Any]:
    try:
        value = reader(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{path}: missing") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path}: damaged: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: damaged: it holds a {type(value).__name__}, not settings")
    return value


@contextlib.contextmanager
def _made(path: Path) -> Iterator[None]:
    """Makes the folder, with parents, if it is not there; after a failure inside, those made are gone again."""
    new: list[Path] = []
    try:
        try:
            new = [p for p in (path, *path.parents) if not p.exists()]
            for folder in reversed(new):
                folder.mkdir(exist_ok=True)
            _check_unused(path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                with guard(path, "making the run folder"):
                    raise
            raise RunError(f"{path}: the run folder cannot be made: {error.strerror}; choose another --out") from error
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in new:
                folder.rmdir()
        raise


@contextlib.contextmanager
def _kept_only_if_complete(path: Path, lock: int) -> Iterator[None]:
    """After a failure inside, removes what :meth:`RunFolder.create` wrote and gives the lock back."""
    begun = (path / "manifest.json").exists()
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if not begun:
                for name in ("config.yaml", "manifest.json"):
                    (path / name).unlink(missing_ok=True)
                (path / "checkpoints").rmdir()
        with contextlib.suppress(OSError):
            if not begun:
                (path / _LOCK).unlink()
        os.close(lock)
        raise


def _check_unused(path: Path) -> None:
    names = {e.name for e in os.scandir(path)}
    visible = {n for n in names if ".tmp-" not in n} - {_LOCK}
    if not visible:
        return
    busy = (path / "checkpoints").is_dir() and any((path / "checkpoints").iterdir())
    if "manifest.json" in visible:
        raise RunError(f"{path}: a run is there already; choose another --out, or go on with `trueup resume {path}`")
    if visible - _HALF_MADE or busy or _LOCK not in names or "config.yaml" not in visible:
        raise RunError(f"{path}: the folder is not empty (it holds {sorted(visible)[0]}); choose another --out")


def _take_lock(path: Path) -> int:
    """Locks the folder until the descriptor is closed or the process ends, however it ends."""
    with guard(path, "locking the run folder"):
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            _claim(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _claim(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise RunError(
            f"{path}: in use by another process (pid {holder}); wait for it, or choose another --out"
        ) from None
    if not _still_there(path / _LOCK, descriptor):
        raise RunError(f"{path}: another process is making or removing this run folder; try again")
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        with contextlib.suppress(OSError):
            (path / _LOCK).unlink()
        raise


def _still_there(path: Path, descriptor: int) -> bool:
    """Whether the locked file is the one under its name, not one that was unlinked meanwhile."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _warn_scrubbed(before: Any, after: Any, where: str = "") -> None:
    """Says which settings were not written as they are, because they hold a secret."""
    if isinstance(before, dict):
        for key in before:
            _warn_scrubbed(before[key], after[key], f"{where}.{key}".lstrip("."))
    elif before != after:
        log.warning("config.yaml: %s holds a secret and is written with ***", where)
