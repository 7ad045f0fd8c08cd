"""Released lists of principles as constitutions: what they say is taken over word for word, levels and ids are made.

Each reader knows one shape. A list says nothing of priority, so its principles share one weighted level, except for
sections that carry an authority, which become levels in its order.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from trueup.errors import ConfigError
from trueup.feedback.constitution import validated

Principles = list[dict[str, Any]]
AUTHORITIES = ("root", "system", "developer", "user", "guideline")  # from above to below
_LEVEL = "principles"
_EXEMPLAR = re.compile(
    r"(?P<talk>.*?)\n+Assistant:(?P<bad>(?:(?!\n+Assistant:).)*?)\n+CritiqueRequest:(?P<request>.*?)\n+Critique:"
    r"(?P<critique>.*?)\n+RevisionRequest:.*?\n+Revision:(?P<good>.*?)(?=\n\nHuman:|\Z)",
    re.DOTALL,
)


def import_principles(source: Path) -> dict[str, Any]:
    """A constitution as plain values, checked, from a released file, or from a folder of the CAI paper's files.

    Known shapes: the paper's critique and revision requests, its comparison requests and its few-shot dialogues
    (Bai et al. 2022; in a folder they are joined), pairs of ``critic`` and ``revision`` (llm-swarm), ``dimension`` and
    ``definition`` (SALMON), numbered rules in text (Dromedary), sections with an ``authority`` (OpenAI's Model Spec).

    Raises:
        ConfigError: nothing is there, or it is of no known shape.
    """
    if source.is_dir():
        files = sorted(source.glob("*.json"))
        if not files:
            raise ConfigError(f"{source}: no .json file in this folder; name a file")
        principles = _joined([(f.name, _loaded(f)) for f in files], str(source))
    else:
        principles = _of_file(_loaded(source), str(source))
    tree = {
        "version": 1,
        "name": f"imported from {source.name}",
        "levels": _levels(principles),
        "principles": _numbered_apart(principles),
    }
    validated(tree, str(source))
    return tree


def to_yaml(tree: dict[str, Any]) -> str:
    """The file of an imported constitution."""
    head = (
        "# Imported by `trueup constitution import`; the words are those of the source, whose licence holds for them.\n"
    )
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def _loaded(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if path.suffix != ".json":
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None


def _of_file(content: Any, where: str) -> Principles:
    for reader in READERS:
        found = reader(content)
        if found:
            return found
    raise ConfigError(f"{where}: no known shape of a list of principles; known are critique and revision requests, "
                      "comparison requests, critic/revision pairs, dimension/definition lists, numbered rules, and "
                      "sections with an authority")  # fmt: skip


def _joined(files: list[tuple[str, Any]], where: str) -> Principles:
    """All principles of a folder; dialogues become exemplars of the principle they ask about, else of the first."""
    found: Principles = []
    dialogues: list[tuple[str, dict[str, str]]] = []
    for _, content in files:
        talks = list(_dialogues(content))
        dialogues += talks
        if not talks:
            found += next((p for reader in READERS if (p := reader(content))), [])
    if not found:
        raise ConfigError(f"{where}: no file of a known shape in it")
    for request, exemplar in dialogues:
        asked = [p for p in found if p.get("critique_prompt") == request]
        revising = [p for p in found if "critique_prompt" in p]
        for p in (asked or revising)[:1]:
            p.setdefault("exemplars", []).append(exemplar)
    return found


def _critique_requests(content: Any) -> Principles:
    """{id: {prompt: [CritiqueRequest ...], edit_request: RevisionRequest ...}}, with the marks around the words."""
    if not isinstance(content, dict) or not all(
        isinstance(v, dict)
        and isinstance(v.get("prompt"), list)
        and v["prompt"]
        and isinstance(v.get("edit_request"), str)
        for v in content.values()
    ):
        return []
    found: Principles = []
    for name, entry in content.items():
        critique = _between(entry["prompt"][0], "CritiqueRequest:", "Critique:")
        revision = _between(entry["edit_request"], "RevisionRequest:", "Revision:")
        found.append({"id": name, "statement": revision, "critique_prompt": critique, "revision_prompt": revision,
                      "stages": ["revise"]})  # fmt: skip
    return found


def _between(text: str, start: str, end: str) -> str:
    return text.strip().removeprefix(start).removesuffix(end).strip()


def _comparison_requests(content: Any) -> Principles:
    """Texts that end in ``Options:``."""
    if not isinstance(content, list) or not all(isinstance(t, str) and t.strip().endswith("Options:") for t in content):
        return []
    asked = [t.strip().removesuffix("Options:").strip() for t in content]
    return [
        {"id": f"choice{i}", "statement": t, "choice_prompt": t, "stages": ["label"]} for i, t in enumerate(asked)
    ]  # fmt: skip


def _dialogues(content: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Critique request and exemplar of each round of the paper's few-shot dialogues."""
    for text in content if isinstance(content, list) else ():
        for m in _EXEMPLAR.finditer(text) if isinstance(text, str) else ():
            talk = m["talk"].strip()
            prompt = talk.removeprefix("Human:").strip() if talk.count("Human:") == 1 else talk
            if all((prompt, m["bad"].strip(), m["critique"].strip(), m["good"].strip())):
                yield m["request"].strip(), {
                    "prompt": prompt, "bad": m["bad"].strip(), "critique": m["critique"].strip(),
                    "good": m["good"].strip(),
                }  # fmt: skip


def _pairs(content: Any) -> Principles:
    """{constitutions: [{critic, revision}], system_chat: [dialogue of six turns or so]}."""
    listed = content.get("constitutions") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(
        isinstance(p, dict) and {"critic", "revision"} <= p.keys() for p in listed
    ):
        return []
    found: Principles = [
        {"id": f"pair{i}", "statement": p["revision"], "critique_prompt": p["critic"], "revision_prompt": p["revision"]}
        for i, p in enumerate(listed)
    ]
    talks = content.get("system_chat")
    for talk in talks if isinstance(talks, list) else ():
        said = [t["content"] for t in talk if isinstance(t, dict) and isinstance(t.get("content"), str)]
        if found and len(said) == 6:  # question, answer, critique request, critique, revision request, revision
            found[0].setdefault("exemplars", []).append(
                {"prompt": said[0], "bad": said[1], "critique": said[3], "good": said[5]}
            )
    return found


def _dimensions(content: Any) -> Principles:
    """[{dimension, definition, weight}]."""
    if not isinstance(content, list) or not all(
        isinstance(p, dict) and isinstance(p.get("dimension"), str) and isinstance(p.get("definition"), str)
        for p in content
    ):
        return []
    return [
        {"id": _slug(p["dimension"]), "statement": f"{p['dimension']}: {p['definition']}",
         **({"weight": p["weight"]} if isinstance(p.get("weight"), int | float) and p["weight"] > 0 else {})}
        for p in content
    ]  # fmt: skip


def _rules(content: Any) -> Principles:
    """Lines ``3 (helpful). Watson's responses should be ...``."""
    rules = re.findall(r"^\d+ \(([^)]+)\)\. (.+)$", content, re.MULTILINE) if isinstance(content, str) else []
    return [{"id": _slug(name), "statement": text} for name, text in rules]


def _sections(content: Any) -> Principles:
    """Markdown headings that carry ``{#id authority=NAME}``, each with its first paragraph."""
    if not isinstance(content, str):
        return []
    parts = re.split(r"^#+ (.+?) \{#([\w-]+)[^}\n]*?authority=(\w+)[^}\n]*\}[ \t]*$", content, flags=re.MULTILINE)
    found: Principles = []
    for title, name, authority, body in zip(*(parts[i::4] for i in (1, 2, 3, 4)), strict=True):
        paragraphs = [p.strip() for p in re.split(r"\n\s*\n", body) if re.match(r"[A-Za-z]", p.strip())]
        first = re.sub(r"\[\^\w+\]|[*_]{1,2}(?=\S)|(?<=\S)[*_]{1,2}", "", paragraphs[0]) if paragraphs else ""
        if authority in AUTHORITIES:
            found.append({"id": _slug(name), "level": authority, "statement": f"{title}. {' '.join(first.split())}"})
    return found


READERS: tuple[Callable[[Any], Principles], ...] = (
    _critique_requests, _comparison_requests, _pairs, _dimensions, _rules, _sections,
)  # fmt: skip


def _levels(principles: Principles) -> list[dict[str, str]]:
    for p in principles:
        p.setdefault("level", _LEVEL)
    used = {p["level"] for p in principles}
    return [{"name": a, "kind": "strict"} for a in AUTHORITIES if a in used] + [
        {"name": _LEVEL, "kind": "weighted"} for _ in used & {_LEVEL}
    ]


def _numbered_apart(principles: Principles) -> Principles:
    """Ids that stand twice get a number; id and level come first."""
    seen: Counter[str] = Counter()
    found: Principles = []
    for p in principles:
        seen[p["id"]] += 1
        name = p["id"] if seen[p["id"]] == 1 else f"{p['id']}-{seen[p['id']]}"
        found.append({"id": name, "level": p["level"], **{k: v for k, v in p.items() if k not in ("id", "level")}})
    return found


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:80] or "principle"
