"""The model card: what a result was made from and how, and what was measured; every word of the user's is escaped."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueup.models.source import BUNDLED, ORIGIN

_PACKAGES = ("trueup", "torch", "transformers", "peft", "tokenizers")
_MARKED = re.compile(r"([\\`*_{}\[\]<>|#~$!])")
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True, slots=True)
class CardInfo:
    """What the card tells.

    Attributes:
        base: model that training began with, as the user named it.
        base_identity: its hash or hub commit.
        method: dpo, sft, ...
        data: file, folder or hub id of the rows.
        data_fingerprint: hash of the rows used.
        rows: how many were trained on.
        settings: the resolved configuration.
        reference: identity of the reference policy; ``None`` or ``"None"`` where there was none.
        results: ``before`` and ``after`` on held-out rows: name -> mean, low, high (95 % interval), n.
        steps: optimizer steps of the result.
        licence: of the base, if known (SPDX); None: see :func:`known_licence`.
    """

    base: str
    base_identity: str
    method: str
    data: str
    data_fingerprint: str
    rows: int
    settings: Mapping[str, Any]
    reference: str | None
    results: Mapping[str, Mapping[str, Mapping[str, float]]]
    steps: int
    licence: str | None = None
    notes: tuple[str, ...] = field(default=())


def write_card(folder: Path, info: CardInfo) -> None:
    """Writes ``README.md`` into a model folder whose other files are there already.

    Args:
        folder: the model folder; whether it holds an adapter or a reward model is read from it.
        info: what to tell.
    """
    (folder / "README.md").write_text(card_text(folder, info), encoding="utf-8")


def write_merged_card(adapter: Path, folder: Path) -> None:
    """Writes the card of a full model made from an adapter: the adapter's own, made to fit.

    Args:
        adapter: the adapter's folder; without a card there, the new one says little.
        folder: the full model's folder, whose other files are there already.
    """
    old = adapter / "README.md"
    text = old.read_text(encoding="utf-8") if old.is_file() else "# A merged model\n\n## Loading it\n"
    text = text.replace("library_name: peft\n", "library_name: transformers\n", 1)
    text = text.replace("\n\nA LoRA adapter for ", "\n\nA LoRA adapter merged into ", 1)
    start = text.find("\n## Loading it\n")
    if start >= 0:
        end = text.find("\n## ", start + 1)
        loading = "\n## Loading it\n\n" + _loading(adapter=False, reward=_is_reward(folder)) + "\n"
        text = text[:start] + loading + ("" if end < 0 else text[end:])
    (folder / "README.md").write_text(text, encoding="utf-8")


def card_text(folder: Path, info: CardInfo) -> str:
    """The card as Markdown with the YAML head that model hubs read."""
    adapter = (folder / "adapter_config.json").exists()
    sections = [
        _head(info, adapter=adapter, reward=_is_reward(folder)),
        f"# {escape(Path(_shown(info.base)).name)}, {escape(info.method)}",
        _opening(info, adapter=adapter),
        "## Measured on held-out rows\n\n" + _results_table(info.results),
        "## How it was made\n\n" + _facts(info),
        "## Settings\n\n"
        + _fenced(json.dumps(_settings(info.settings), indent=2, sort_keys=True, default=str), "json"),
        "## Loading it\n\n" + _loading(adapter=adapter, reward=_is_reward(folder)),
        "## Versions\n\n" + "\n".join(f"- {name} {_version(name)}" for name in _PACKAGES),
    ]
    if info.notes:
        sections.insert(4, "\n".join(f"- {escape(note)}" for note in info.notes))
    return "\n\n".join(sections) + "\n"


def escape(text: str) -> str:
    """One line of plain text that Markdown and HTML show as it is written."""
    line = " ".join(str(text).split())
    return _MARKED.sub(r"\\\1", line.replace("&", "&amp;")).replace("\\<", "&lt;").replace("\\>", "&gt;")


def known_licence(base: str, folder: Path | None = None) -> str | None:
    """The licence that a base model states, as one SPDX-like word; None if it states none.

    Args:
        base: as the user named it; bundled models' licences are known.
        folder: the base's folder; the YAML head of its README.md is read.
    """
    if base.startswith(BUNDLED):
        return "apache-2.0"
    readme = None if folder is None else folder / "README.md"
    if readme is None or not readme.is_file():
        return None
    with readme.open(encoding="utf-8", errors="replace") as file:
        head = file.read(20_000)
    if not head.startswith("---"):
        return None
    found = re.search(r"^licen[sc]e:\s*['\"]?([^'\"\s]+)", head.split("\n---", 1)[0], re.MULTILINE)
    return found[1] if found and _SPDX.fullmatch(found[1]) else None


def _head(info: CardInfo, *, adapter: bool, reward: bool) -> str:
    licence = info.licence or known_licence(info.base, _folder_of(info.base))
    lines = ["---", f"library_name: {'peft' if adapter else 'transformers'}"]
    if licence is not None:
        lines.append(f"license: {licence}")
    if _folder_of(info.base) is None and not info.base.startswith(BUNDLED):
        lines.append(f"base_model: {json.dumps(info.base)}")
    lines.append(f"pipeline_tag: {'text-classification' if reward else 'text-generation'}")
    tags = json.dumps(["trueup", info.method])
    return "\n".join([*lines, f"tags: {tags}", "---"])


def _folder_of(base: str) -> Path | None:
    path = Path(base).expanduser()
    return path if path.exists() else None


def _opening(info: CardInfo, *, adapter: bool) -> str:
    what = "A LoRA adapter for" if adapter else "Made from"
    return (
        f"{what} **{escape(_shown(info.base))}** by **{escape(info.method)}**: "
        f"{info.steps} steps on {info.rows} rows of {escape(_shown(info.data))}."
    )


def _results_table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    before, after = results.get("before", {}), results.get("after", {})
    names = list(dict.fromkeys([*before, *after]))
    if not names:
        return "Nothing was measured."
    lines = ["| figure | before | after | rows |", "|---|---|---|---|"]
    for name in names:
        rows = next(str(int(side[name]["n"])) for side in (after, before) if name in side)
        lines.append(f"| {escape(name)} | {_figure(before.get(name))} | {_figure(after.get(name))} | {rows} |")
    return "\n".join(lines) + "\n\nMean and, in brackets, its 95 % interval."


def _figure(figure: Mapping[str, float | None] | None) -> str:
    if figure is None:
        return "not measured"
    if figure["low"] is None:
        return f"{figure['mean']:.4g} (a single prompt: no interval)"
    return f"{figure['mean']:.4g} \\[{figure['low']:.4g}, {figure['high']:.4g}\\]"


def _facts(info: CardInfo) -> str:
    facts = {
        "Base model": f"{_shown(info.base)} ({info.base_identity})",
        "Method": info.method,
        "Reference policy": info.reference if info.reference not in (None, "None") else "none",
        "Data": f"{_shown(info.data)} ({info.data_fingerprint}), {info.rows} rows",
        "Steps": str(info.steps),
        "Licence of the base model": info.licence or known_licence(info.base, _folder_of(info.base)) or "not stated",
    }
    return "\n".join(f"- {name}: {escape(value)}" for name, value in facts.items())


def _loading(*, adapter: bool, reward: bool) -> str:
    auto = "AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM"
    code = (
        f"from transformers import {auto}, AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained("this/folder"{", num_labels=1" if reward and adapter else ""})\n'
        'tokenizer = AutoTokenizer.from_pretrained("this/folder")'
    )
    text = _fenced(code, "python")
    if adapter:
        text += (
            "\n\nThis folder holds an adapter: PEFT must be installed and the base model where `adapter_config.json` "
            f"says; `{ORIGIN}` names the base and its identity. `trueup merge` makes a full model of both."
        )
    return text


def _is_reward(folder: Path) -> bool:
    for name in ("adapter_config.json", "config.json"):
        if (folder / name).exists():
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            kinds = [str(config.get("task_type")), *map(str, config.get("architectures") or [])]
            return any(kind == "SEQ_CLS" or kind.endswith("ForSequenceClassification") for kind in kinds)
    return False


def _settings(value: Any) -> Any:
    """The settings with the home folder written ``~``: a card is made to be shared."""
    if isinstance(value, Mapping):
        return {str(k): _settings(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_settings(v) for v in value]
    return _shown(value) if isinstance(value, str) else value


def _shown(text: str) -> str:
    home = str(Path.home())
    return "~" + text[len(home) :] if len(home) > 1 and (text + "/").startswith(home + "/") else text


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
