"""Weights handed from a trainer to its samplers through the file system, and how far the two may drift apart.

A version is a folder that appears whole or not at all and is never written again; ``LATEST`` names the newest. One
trainer publishes into a folder, any number of samplers read.

    weights/
    ├── v000011/            an older version, kept for samplers that still load it
    ├── v000012/            weights, tokenizer, and HANDOVER.json: the size of each file
    └── LATEST              the text v000012
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trueup.errors import RunError, TrainingError
from trueup.runs.disk import fsync_folder, guard, remove_tree, sweep, temporary_for, write_atomic, write_new

LATEST = "LATEST"
MANIFEST = "HANDOVER.json"
_NAME = re.compile(r"v(\d{6,})")


@dataclass(frozen=True, slots=True)
class Handed:
    """Published weights.

    Attributes:
        version: of the policy.
        path: the folder.
    """

    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How far a trainer's log-probabilities are from the sampler's, on the sampler's tokens.

    Attributes:
        token_mult_prob_error: mean factor between the two probabilities of a token; 1: equal. 1.05 is worth a look.
        kl: estimate of KL(sampler ‖ trainer) in nats a token; above 0.01 training tends to fail.
        largest: largest difference of log-probabilities, in nats.
        tokens: counted.
    """

    token_mult_prob_error: float
    kl: float
    largest: float
    tokens: int


def publish(folder: Path, version: int, save: Callable[[Path], None], *, keep: int = 2) -> Path:
    """Makes a version of the weights visible, whole, and removes old ones.

    Args:
        folder: where versions are handed over; made if absent.
        version: greater than every one before.
        save: writes the files into the folder it is given (no symbolic links).
        keep: newest versions that stay, this one among them; at least 2, so that a sampler that just began to load
            the one before can finish.

    Returns:
        The folder of the version.

    Raises:
        RunError: the version is not newer than the newest, or nothing was saved.
        ResourceError: disk full and the like; the version before stays the newest.
    """
    if version < 0 or keep < 2:
        raise ValueError(f"publish: version {version} must be at least 0, and keep {keep} at least 2")
    with guard(folder, "handing over weights"):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    newest = _announced(folder)
    if newest is not None and version <= newest:
        raise RunError(
            f"{folder}: version {version} cannot be handed over after {newest}; a resumed trainer goes on with "
            f"{newest + 1}, and another run uses another folder"
        )
    for unannounced in (v for v in _versions(folder) if newest is None or v > newest):
        _remove(folder, unannounced)  # its trainer died before samplers were told of it
    path = folder / _name(version)
    temporary = temporary_for(path)
    with guard(folder, "handing over weights"):
        try:
            temporary.mkdir()
            save(temporary)
            _seal(temporary, version)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                remove_tree(temporary)
            raise
        fsync_folder(folder)
    write_atomic(folder / LATEST, path.name + "\n")
    prune(folder, keep)
    return path


def latest(folder: Path) -> Handed | None:
    """The newest version, its files looked over; None if there is none yet.

    Raises:
        RunError: ``LATEST`` names what is not there, or a file is missing or has another size than when it was written.
    """
    while (version := _announced(folder)) is not None:
        handed = Handed(version, folder / _name(version))
        try:
            _verify(handed)
        except RunError:
            if _announced(folder) == version:
                raise
            continue  # newer versions came meanwhile, and this one was removed
        return handed
    return None


def wait_for(
    folder: Path, version: int, timeout: float, *, poll: float = 0.2, alive: Callable[[], bool] | None = None
) -> Handed:
    """Waits until ``version`` or a newer one is there.

    Args:
        folder: where versions are handed over.
        version: the oldest that will do.
        timeout: seconds.
        poll: seconds between two looks.
        alive: whether the trainer still runs; asked at each look.

    Raises:
        RunError: it did not come in time, or the trainer is gone; what is there is named.
    """
    deadline = time.monotonic() + timeout
    while True:
        gone = alive is not None and not alive()  # before the look: a trainer may publish and end
        handed = latest(folder)
        if handed is not None and handed.version >= version:
            return handed
        there = "none is there yet" if handed is None else f"the newest is {handed.version}"
        if gone:
            raise RunError(f"{folder}: version {version} of the weights will not come: the trainer ended; {there}")
        if time.monotonic() >= deadline:
            raise RunError(
                f"{folder}: waited {timeout:g} s for version {version} of the weights, and {there}; is the trainer "
                "alive, and does it hand over into this folder?"
            )
        time.sleep(min(poll, max(0.0, deadline - time.monotonic())))


def prune(folder: Path, keep: int) -> list[Path]:
    """Removes all versions but the newest ``keep`` (at least 1); returns what was removed."""
    if keep < 1:
        raise ValueError(f"prune: keep {keep} must be at least 1")
    return [_remove(folder, version) for version in sorted(_versions(folder))[:-keep]]


def check_staleness(sample_version: int, trainer_version: int, limit: int) -> None:
    """Sees that a sample is no more than ``limit`` versions behind the trainer.

    Raises:
        TrainingError: it is older, or of a version that the trainer has not made yet.
    """
    behind = trainer_version - sample_version
    if behind < 0:
        raise TrainingError(
            f"a sample of policy version {sample_version} reached a trainer at version {trainer_version}: it was drawn "
            "for another run, or the trainer was set back; draw it anew"
        )
    if behind > limit:
        raise TrainingError(
            f"a sample of policy version {sample_version} is {behind} versions behind the trainer ({trainer_version}), "
            f"and {limit} are allowed; hand weights over more often, or draw fewer samples ahead"
        )


def mismatch(trainer_logprobs: np.ndarray, sampler_logprobs: np.ndarray, mask: np.ndarray) -> Mismatch:
    """Compares log-probabilities of sampled tokens, recomputed by the trainer with the weights that drew them.

    With d = log p_trainer − log p_sampler on the tokens of the mask: ``token_mult_prob_error`` = mean exp(|d|)
    (NeMo-RL, docs/adding-new-models.md), and ``kl`` = mean (exp(d) − 1 − d), the k3 estimator of KL(sampler ‖ trainer)
    on tokens drawn by the sampler (Schulman, Approximating KL Divergence, 2020).

    Args:
        trainer_logprobs: ``[B, T]``.
        sampler_logprobs: ``[B, T]``, under the same distribution (temperature, filters).
        mask: ``[B, T]`` bool, True where a token was sampled.

    Raises:
        ValueError: shapes that differ, or no sampled token.
        TrainingError: a log-probability that is no finite number.
    """
    if not trainer_logprobs.shape == sampler_logprobs.shape == mask.shape or mask.dtype != np.bool_:
        raise ValueError(
            f"mismatch: {trainer_logprobs.shape}, {sampler_logprobs.shape} and {mask.dtype} {mask.shape} must be one "
            "shape, and the mask bool"
        )
    if not mask.any():
        raise ValueError("mismatch: the mask holds no sampled token")
    trainer, sampler = trainer_logprobs[mask].astype(np.float64), sampler_logprobs[mask].astype(np.float64)
    for who, values in (("trainer", trainer), ("sampler", sampler)):
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise TrainingError(f"{bad} of the {who}'s {len(values)} log-probabilities are no finite numbers")
    d = trainer - sampler
    with np.errstate(over="ignore"):  # a difference past 709 nats is infinitely wrong, and inf says so
        error, kl = np.exp(np.abs(d)).mean(), (np.expm1(d) - d).mean()
    return Mismatch(float(error), float(kl), float(np.abs(d).max()), len(d))


def _name(version: int) -> str:
    return f"v{version:06d}"


def _announced(folder: Path) -> int | None:
    """The version that ``LATEST`` names."""
    try:
        name = (folder / LATEST).read_text().strip()
    except FileNotFoundError:
        return None
    match = _NAME.fullmatch(name)
    if match is None:
        raise RunError(f"{folder / LATEST}: {name[:80]!r} is no version")
    return int(match[1])


def _remove(folder: Path, version: int) -> Path:
    path = folder / _name(version)
    # out of sight first, so that half of a version is never taken for one
    aside = temporary_for(path)
    with guard(path, "removing a version"):
        os.rename(path, aside)
        remove_tree(aside)
    return path


def _versions(folder: Path) -> list[int]:
    return [int(m[1]) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]


def _seal(folder: Path, version: int) -> None:
    """Makes all files and folders durable and writes down their sizes."""
    sizes: dict[str, int] = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (Path(root) / name).is_symlink():
                raise RunError(f"{Path(root) / name}: a symbolic link cannot be handed over; save the file itself")
        for name in files:
            path = Path(root) / name
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        fsync_folder(Path(root))
    if not sizes:
        raise RunError(f"{folder.parent}: nothing was saved for version {version}")
    manifest = {"version": version, "files": dict(sorted(sizes.items()))}
    write_new(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    fsync_folder(folder)


def _verify(handed: Handed) -> None:
    path = handed.path / MANIFEST
    try:
        manifest: Any = json.loads(path.read_bytes())
        files = {str(name): int(size) for name, size in manifest["files"].items()}
    except FileNotFoundError:
        raise RunError(f"{handed.path}: named by {LATEST}, and not there or without {MANIFEST}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise RunError(f"{path}: is damaged; hand the weights over again as a newer version") from None
    for name, size in files.items():
        file = handed.path / name
        try:
            there = file.stat().st_size
        except FileNotFoundError:
            raise RunError(f"{file}: is missing; hand the weights over again as a newer version") from None
        if there != size:
            raise RunError(
                f"{file}: has {there} bytes instead of {size}; hand the weights over again as a newer version"
            )
