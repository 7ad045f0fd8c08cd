"""From what the user wrote to a folder that is safe to read: bundled names, folders, runs, GGUF files, hub ids.

Nothing here runs code from a model or unpickles anything: weights are safetensors or GGUF, every other file is text
that is parsed as JSON or handed to a tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RevisionResolutionError, XetDownloadError
from safetensors import SafetensorError, safe_open

from trueup.errors import ModelError
from trueup.models.bundled import BUNDLES, bundled_path, cached
from trueup.models.files import full_disk_named, sha256_file
from trueup.models.gguf_file import check_gguf

BUNDLED = "bundled:"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
ORIGIN = "trueup.json"  # beside an adapter: which base it was trained on

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "additional_chat_templates/*"]
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_CODE_NAMES = {  # transformers fetches an attention or expert kernel from the hub if its name has a slash; PEFT imports
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "megatron_config",
}
_LARGEST_CONFIG = 4 << 20
_HASHED = ("*.safetensors", "*.gguf", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_NOT_HASHED = {"MANIFEST.json", "generation_config.json", "trainer_state.json"}


@dataclass(frozen=True)
class Source:
    """A model found on disk.

    Attributes:
        name: what the user wrote, made absolute if it is a path; loads again from anywhere on this machine.
        folder: where the files are (the file's parent for GGUF).
        kind: ``model``, ``adapter`` (LoRA, needs its base) or ``gguf``.
        file: the GGUF file.
        commit: of a hub repository.
        code: commit whose Python code may be run; None: none.
    """

    name: str
    folder: Path
    kind: Literal["model", "adapter", "gguf"]
    file: Path | None = None
    commit: str | None = None
    code: str | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json`` (``adapter_config.json`` of an adapter), parsed."""
        return read_json(self.folder / ("adapter_config.json" if self.kind == "adapter" else "config.json"))


def resolve(path: str | Path, revision: str | None = None, code_revision: str | None = None) -> Source:
    """Finds a model and checks that it can be read safely.

    Args:
        path: ``bundled:NAME``, a model folder, an adapter folder, a run folder (its ``model/`` is taken), a ``.gguf``
            file, or a hub id.
        revision: branch, tag or commit, for hub ids only.
        code_revision: 40 hexadecimal digits of a hub commit: code of that commit may be run. Hub ids only.

    Raises:
        ModelError: not there, not a model, weights that would have to be unpickled, code without a pinned commit,
            links that lead out of the folder, damaged files. The message names the file.
    """
    text = str(path)
    if code_revision is not None and not _COMMIT.fullmatch(code_revision):
        raise ModelError(f"code_revision {code_revision!r}: name a commit by its 40 hexadecimal digits")
    if text.startswith(BUNDLED):
        _hub_only(text, revision, code_revision)
        return Source(text, bundled_path(text.removeprefix(BUNDLED)), "model")
    local = Path(text).expanduser()
    if text and local.exists():
        _hub_only(text, revision, code_revision)
        return _local(local)
    if "\\" in text or text.startswith((".", "/", "~")) or text.endswith(".gguf") or not _HUB_ID.fullmatch(text):
        raise ModelError(f"model {text!r}: no such folder or file, and not a hub id")
    return _hub(text, revision, code_revision)


def identity(path: str | Path, revision: str | None = None) -> str:
    """Tells models apart: SHA-256 over weights, config and tokenizer; for a hub id, the id and its commit.

    Raises:
        ModelError: as :func:`resolve`.
    """
    return identity_of(resolve(path, revision))


def identity_of(source: Source) -> str:
    """As :func:`identity`, of a model already found."""
    if source.commit is not None:
        return f"{source.name}@{source.commit}"
    digest = hashlib.sha256()
    for file in [source.file] if source.file else sorted(_hashed(source.folder)):
        digest.update(f"{file.name}\0{_file_hash(file)}\n".encode())
    if source.kind == "adapter":
        digest.update(identity_of(base_of(source)).encode())
    return f"sha256:{digest.hexdigest()}"


def base_of(source: Source) -> Source:
    """The model that an adapter belongs to.

    Raises:
        ModelError: it cannot be found, or its weights are not those that the adapter was trained on.
    """
    written = source.config.get("base_model_name_or_path")
    origin = read_json(source.folder / ORIGIN) if (source.folder / ORIGIN).exists() else {}
    name = origin.get("base") or written
    if not isinstance(name, str) or not name:
        raise ModelError(f"{source.folder}/adapter_config.json: names no base model (base_model_name_or_path)")
    try:
        base = resolve(name, origin.get("revision") or source.config.get("revision"))
    except ModelError as error:
        raise ModelError(f"{source.folder}: the base model of this adapter cannot be used: {error}") from None
    if base.kind == "adapter":
        raise ModelError(f"{source.folder}: its base {name} is an adapter too; merge that one first (trueup merge)")
    expected = origin.get("base_identity")
    if expected is not None and identity_of(base) != expected:
        raise ModelError(
            f"{source.folder}: this adapter was trained on {expected}, but {name} now is {identity_of(base)}; put "
            f"the right base back, or remove {ORIGIN} to use it regardless"
        )
    return base


def bundled_name(folder: str | Path) -> str | None:
    """``bundled:NAME`` if a folder is the cached copy of a bundled model."""
    path = Path(folder).resolve()
    return next((BUNDLED + name for name in BUNDLES if path == cached(name).resolve()), None)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small file.

    Raises:
        ModelError: missing, too large, not JSON, not an object. The message names the file.
    """
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ModelError(f"{path}: {path.stat().st_size} bytes are too many for a configuration")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: missing; a model folder needs it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: an object is expected, found {type(value).__name__}")
    return value


def _hub_only(text: str, revision: str | None, code_revision: str | None) -> None:
    if code_revision is not None:
        raise ModelError(f"{text}: code_revision is for hub ids; code in a local folder is never run")
    if revision is not None:
        raise ModelError(f"{text}: revision {revision!r} is for hub ids; a local model has no revisions")


def _local(path: Path) -> Source:
    path = path.resolve()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path}: a file of weights alone; name the model folder (or a .gguf file)")
        check_gguf(path)
        return Source(str(path), path.parent, "gguf", path)
    if not path.is_dir():
        raise ModelError(f"{path}: neither a folder nor a regular file")
    has = {p.name for p in path.iterdir()}
    if not has & {"config.json", "adapter_config.json"}:
        if (path / "model").is_dir():
            return _local(path / "model")
        if len(ggufs := sorted(name for name in has if name.endswith(".gguf"))) == 1:
            return _local(path / ggufs[0])
        raise ModelError(f"{path}/config.json: missing, so this is not a model folder (nor a run folder with model/)")
    return _checked(Source(str(path), path, "adapter" if "adapter_config.json" in has else "model"))


def _hub(name: str, revision: str | None, code_revision: str | None) -> Source:
    wanted = [*_WANTED, "*.py"] if code_revision else _WANTED
    try:
        with full_disk_named(Path("hub cache")):
            folder = Path(snapshot_download(name, revision=revision or code_revision, allow_patterns=wanted))
    except (OSError, EntryNotFoundError, HFValidationError, RevisionResolutionError, XetDownloadError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(f"{name}: no such folder here, and not to be had from the hub ({reason})") from None
    kind: Any = "adapter" if (folder / "adapter_config.json").exists() else "model"
    return _checked(Source(name, folder, kind, commit=folder.name, code=code_revision))


def _checked(source: Source) -> Source:
    _refuse_links(source)
    _refuse_code(source)
    weights = adapter_weights(source) if source.kind == "adapter" else weight_files(source.folder)
    tensors = sum(_check_safetensors(file) for file in weights)
    layers = source.config.get("num_hidden_layers", 0)
    if not isinstance(layers, int) or layers > tensors:
        raise ModelError(f"{source.folder}/config.json: num_hidden_layers {layers!r}, but there are {tensors} tensors")
    return source


def _refuse_links(source: Source) -> None:
    """A link out of the folder could make a private file part of a model that is later shared."""
    home = source.folder.parents[1] if source.commit else source.folder  # hub snapshots link to blobs beside them
    for path in source.folder.iterdir():
        target = Path(os.path.realpath(path))  # unlike resolve(), it takes a link to itself without an exception
        if not target.is_relative_to(home.resolve()):
            raise ModelError(f"{path}: a link that leads out of the model folder; put the file itself there")
        if not (target.is_file() or target.is_dir()):
            raise ModelError(f"{path}: not a regular file")


def _refuse_code(source: Source) -> None:
    """Nothing a model folder says may fetch or import code."""
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        if (source.folder / name).exists():
            for key, value in _entries(read_json(source.folder / name)):
                if key == "auto_map" and source.code is None:
                    raise ModelError(
                        f"{source.name}: {name} wants code of the model's own to be run (auto_map); that is only done "
                        "for a hub id with its code pinned to a commit (code_revision, 40 hexadecimal digits)"
                    )
                if key in _CODE_NAMES and value and (key == "megatron_config" or "/" in str(value)):
                    raise ModelError(f"{source.name}: {name}: {key} {value!r} would load code; remove that entry")


def _entries(value: Any) -> Iterable[tuple[str, Any]]:
    """Every key and value of nested objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a model's weights.

    Raises:
        ModelError: there are none, or the index names a file that is missing or elsewhere.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if not index.exists():
        raise ModelError(_no_weights(folder))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise ModelError(f"{index}: weight_map must be an object of file names")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: {name!r} is not the name of a safetensors file in this folder")
        if not (folder / name).exists():
            raise ModelError(f"{folder / name}: missing, but {index.name} names it")
    return [folder / name for name in names]


def adapter_weights(source: Source) -> list[Path]:
    """The safetensors file of an adapter.

    Raises:
        ModelError: missing, or the adapter is of another kind than LoRA.
    """
    if (kind := source.config.get("peft_type")) != "LORA":
        raise ModelError(f"{source.folder}/adapter_config.json: peft_type {kind!r}; only LORA adapters are read")
    file = source.folder / "adapter_model.safetensors"
    if not file.exists():
        raise ModelError(_no_weights(source.folder))
    return [file]


def _no_weights(folder: Path) -> str:
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        return (
            f"{folder}: only pickled weights ({pickled[0]}), which can run code when they are read; save it again with "
            "transformers' save_pretrained, which writes safetensors"
        )
    found = sorted(path.name for path in folder.iterdir())[:5]
    return f"{folder}: no weights (model.safetensors) here; found {', '.join(found) or 'nothing'}"


def _check_safetensors(path: Path) -> int:
    """Number of tensors; reads the header only."""
    try:
        with safe_open(path, "pt") as file:
            return len(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged safetensors file ({error}); copy or download it again") from None


def _hashed(folder: Path) -> Iterable[Path]:
    return {p for pattern in _HASHED for p in folder.glob(pattern) if p.name not in _NOT_HASHED}


_HASHES: dict[tuple[str, int, int], str] = {}


def _file_hash(path: Path) -> str:
    """SHA-256, remembered while size and time of change stay the same."""
    state = path.stat()
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    if key not in _HASHES:
        _HASHES[key] = sha256_file(path)
    return _HASHES[key]
