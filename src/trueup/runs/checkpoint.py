"""Checkpoints that a crash cannot spoil: a new folder each time, a manifest of hashes last, then one rename.

A save writes ``step-000123.tmp-<pid>-<nonce>/`` (one safetensors file a group of tensors, ``state.json``), fsyncs
every file and the folder, writes ``MANIFEST.json``, fsyncs again, renames to ``step-000123/`` and fsyncs the parent.
A folder under its final name is therefore complete or was damaged afterwards, and damage shows: the manifest holds
size and sha256 of every file, and of itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trueup.errors import RunError, TrueupError
from trueup.runs import tensorfile
from trueup.runs.disk import fsync_folder, guard, remove_tree, sweep, temporary_suffix, write_new
from trueup.runs.encode import canonical, hash_file, parse, plain

SCHEMA = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"
_MANIFEST_LIMIT = 1 << 20
_STATE_LIMIT = 1 << 26
_STEP = re.compile(r"step-(\d{6,12})")
_FILE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\.safetensors|state\.json")
_GROUP = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Tensors = Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved.

    Attributes:
        step: optimizer steps done.
        tensors: group -> name -> tensor, on the CPU.
        meta: what the caller gave, as JSON holds it (tuples came back as lists).
    """

    step: int
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    meta: Mapping[str, Any]


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` stands."""
    return folder / f"step-{step:06d}"


def save_checkpoint(folder: Path, step: int, tensors: Tensors, meta: Mapping[str, Any]) -> Path:
    """Saves a checkpoint; when it returns, the checkpoint survives a power cut.

    Leftovers of interrupted saves are removed first. A valid checkpoint of the same step is never overwritten: the
    same content again changes nothing. A damaged one is moved aside to ``step-000123.damaged-<n>``.

    Args:
        folder: the run's ``checkpoints`` folder; made if absent.
        step: optimizer steps done.
        tensors: group (weights, optimizer, rng ...) -> name -> tensor; each group is one safetensors file.
        meta: everything else, as strict JSON: config hash, data fingerprint, cursor, objective, metric offset ...

    Returns:
        The folder of the checkpoint.

    Raises:
        ResourceError: disk full, no permission and the like; nothing half-written stays, older checkpoints are intact.
        RunError: a valid checkpoint of this step holds other content.
        TrueupError: ``meta`` does not fit strict JSON, or a tensor does not fit safetensors.
    """
    state = canonical({"schema": SCHEMA, "step": step, "meta": plain(meta)})
    if odd := [g for g in tensors if not _GROUP.fullmatch(g)]:
        raise TrueupError(f"checkpoint group {odd[0]!r}: a group is named in lower-case letters, digits, - and _")
    final = step_folder(folder, step)
    with guard(final, "saving a checkpoint"):
        if not folder.is_dir():
            os.makedirs(folder, exist_ok=True)
        sweep(folder)
        if os.path.lexists(final) and _settle(final, tensors, state):
            return final
        temporary = folder / f"{final.name}.{temporary_suffix()}"
        try:
            _write(temporary, step, tensors, state)
            os.rename(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                remove_tree(temporary)
            raise
        fsync_folder(folder)
    return final


def _write(temporary: Path, step: int, tensors: Tensors, state: bytes) -> None:
    os.mkdir(temporary)
    files: dict[str, tuple[str, int]] = {}
    for group in sorted(tensors):
        name = f"{group}.safetensors"
        files[name] = tensorfile.write(temporary / name, tensorfile.pieces(tensors[group]))
    write_new(temporary / STATE, state)
    files[STATE] = (hashlib.sha256(state).hexdigest(), len(state))
    fsync_folder(temporary)
    write_new(temporary / MANIFEST, _manifest(step, files))
    fsync_folder(temporary)


def _manifest(step: int, files: Mapping[str, tuple[str, int]]) -> bytes:
    body = {"schema": SCHEMA, "step": step, "files": {n: {"sha256": h, "size": s} for n, (h, s) in files.items()}}
    return canonical({**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n"


def _settle(final: Path, tensors: Tensors, state: bytes) -> bool:
    """True if ``final`` already holds this content; a damaged folder is moved aside."""
    try:
        files = _read_manifest(final)
        _verify(final, files)
    except RunError:
        number = 1
        while os.path.lexists(aside := final.with_name(f"{final.name}.damaged-{number}")):
            number += 1
        os.rename(final, aside)
        fsync_folder(final.parent)
        return False
    wanted = {f"{group}.safetensors": tensorfile.digest(tensorfile.pieces(t)) for group, t in tensors.items()}
    wanted[STATE] = (hashlib.sha256(state).hexdigest(), len(state))
    if odd := sorted(n for n in files.keys() | wanted.keys() if files.get(n) != wanted.get(n)):
        raise RunError(
            f"{final}: a valid checkpoint of this step holds other content ({odd[0]} differs); checkpoints are never "
            "overwritten. Choose another --out, or move that folder away"
        )
    return True


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint, every byte of it checked against its sha256.

    Raises:
        RunError: damaged, incomplete, or of another version; the message names the file, the expected and the actual
            hash, and the older checkpoint that is usable instead.
        ResourceError: the disk cannot be read.
    """
    try:
        with guard(path, "reading a checkpoint"):
            return _load(path)
    except RunError as error:
        raise RunError(f"{error}; {_instead(path)}") from error.__cause__


def _load(path: Path) -> Checkpoint:
    files = _read_manifest(path)
    _verify(path, files)
    try:
        state = parse((path / STATE).read_bytes())
        step, meta = state["step"], state["meta"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / STATE}: not the state of a checkpoint: {error}") from error
    if step != _step_of(path):
        raise RunError(f"{path / STATE}: it is of step {step}, the folder of step {_step_of(path)}")
    tensors = {n.removesuffix(".safetensors"): tensorfile.read(path / n) for n in files if n != STATE}
    return Checkpoint(step, tensors, meta)


def _instead(path: Path) -> str:
    """What a user can do when ``path`` is not usable."""
    older = [p for p in _steps(path.parent) if _step_of(p) < _step_of(path) and _reason(p) is None]
    return f"{older[0].name} is the newest usable older checkpoint" if older else "no older checkpoint is usable"


def latest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose manifest parses and whose sizes match, and why newer ones were skipped.

    Hashes are not read here; :func:`load_latest` does both.
    """
    skipped: list[str] = []
    for path in _steps(folder):
        reason = _reason(path)
        if reason is None:
            return path, skipped
        skipped.append(reason)
    return None, skipped


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Loads the newest checkpoint that is intact to the last byte, and says which newer ones were skipped and why.

    Raises:
        ResourceError: the disk cannot be read.
    """
    skipped: list[str] = []
    for path in _steps(folder):
        try:
            with guard(path, "reading a checkpoint"):
                return _load(path), skipped
        except RunError as error:
            skipped.append(str(error))
    return None, skipped


def prune(folder: Path, keep: int, protect: Iterable[int | Path] = ()) -> list[Path]:
    """Removes old checkpoints; returns the folders that are gone.

    Only usable checkpoints count, and only they are removed: a damaged one never pushes out a good one, and stays for
    whoever wants to look. A removal starts with a rename, so that no half-removed folder keeps a checkpoint's name.

    Args:
        folder: the run's ``checkpoints`` folder.
        keep: newest checkpoints kept, at least 1.
        protect: further steps (or folders) kept, such as the best one.

    Raises:
        TrueupError: ``keep`` below 1.
        ResourceError: the disk refuses.
    """
    if keep < 1:
        raise TrueupError(f"prune: keep={keep}, but at least one checkpoint must stay")
    kept = {p if isinstance(p, int) else _step_of(p) for p in protect}
    gone: list[Path] = []
    with guard(folder, "removing old checkpoints"):
        usable = [p for p in _steps(folder) if _reason(p) is None]
        for path in usable[keep:]:
            if _step_of(path) in kept:
                continue
            gone.append(_remove(path))
        if gone:
            fsync_folder(folder)
    return gone


def discard(folder: Path, after: int) -> list[Path]:
    """Removes every checkpoint of a step beyond ``after``, newest first; returns the folders that are gone.

    Raises:
        ResourceError: the disk refuses.
    """
    gone: list[Path] = []
    with guard(folder, "removing checkpoints"):
        gone += [_remove(path) for path in _steps(folder) if _step_of(path) > after]
        if gone:
            fsync_folder(folder)
    return gone


def _remove(path: Path) -> Path:
    doomed = path.with_name(f"{path.name}.{temporary_suffix()}")
    os.rename(path, doomed)
    shutil.rmtree(doomed)
    return path


def _step_of(path: Path) -> int:
    found = _STEP.fullmatch(path.name)
    if not found:
        raise RunError(f"{path}: not a checkpoint folder (those are named step-000123)")
    return int(found[1])


def _steps(folder: Path) -> list[Path]:
    """Folders named like checkpoints, newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _STEP.fullmatch(p.name)), key=_step_of, reverse=True)


def _reason(path: Path) -> str | None:
    """Why ``path`` is not a valid checkpoint, by manifest and sizes; None if it is."""
    try:
        _read_manifest(path)
    except RunError as error:
        return str(error)
    return None


def _read_manifest(path: Path) -> dict[str, tuple[str, int]]:
    """File name -> (sha256, size), with names, kinds and sizes checked.

    Raises:
        RunError: missing, altered, of another version, or pointing at what is not a plain file of this folder.
    """
    step = _step_of(path)
    raw = _plain_bytes(path, MANIFEST, _MANIFEST_LIMIT)
    try:
        manifest = parse(raw)
        body = {k: manifest[k] for k in ("schema", "step", "files")}
        if body["schema"] != SCHEMA:
            raise ValueError(f"schema {body['schema']!r}; this trueup reads schema {SCHEMA}")
        files = {str(n): (str(f["sha256"]), int(f["size"])) for n, f in body["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path / MANIFEST}: not usable: {error}") from error
    if raw != _manifest(body["step"], files):
        raise RunError(f"{path / MANIFEST}: altered: it does not match its own sha256")
    if body["step"] != step:
        raise RunError(f"{path / MANIFEST}: it is of step {body['step']}, the folder of step {step}")
    _check_files(path, files)
    return files


def _check_files(path: Path, files: Mapping[str, tuple[str, int]]) -> None:
    for name, (_, size) in files.items():
        if not _FILE.fullmatch(name):
            raise RunError(f"{path / MANIFEST}: refused: {name!r} is no file that a checkpoint holds")
        found = _plain_size(path, name)
        if found != size:
            raise RunError(f"{path / name}: damaged: {found:,} bytes, the manifest says {size:,}")
    if STATE not in files or files[STATE][1] > _STATE_LIMIT:
        raise RunError(f"{path / MANIFEST}: refused: {STATE} is missing or over {_STATE_LIMIT:,} bytes")


def _plain_size(path: Path, name: str) -> int:
    """Size of a regular file; a symbolic link, on the way too, is refused."""
    if path.is_symlink():
        raise RunError(f"{path}: refused: a symbolic link")
    try:
        found = os.lstat(path / name)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path / name}: missing") from None
    if not stat.S_ISREG(found.st_mode):
        raise RunError(f"{path / name}: refused: not a plain file (a symbolic link or a folder)")
    return found.st_size


def _plain_bytes(path: Path, name: str, limit: int) -> bytes:
    size = _plain_size(path, name)
    if size > limit:
        raise RunError(f"{path / name}: refused: {size:,} bytes (at most {limit:,})")
    return (path / name).read_bytes()


def _verify(path: Path, files: Mapping[str, tuple[str, int]]) -> None:
    """Compares every file with its sha256.

    Raises:
        RunError: the first file that differs, with both hashes.
    """
    for name, (expected, _) in files.items():
        actual = hash_file(path / name)
        if actual != expected:
            raise RunError(f"{path / name}: damaged: sha256 is {actual}, the manifest says {expected}")
