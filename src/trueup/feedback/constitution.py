"""A constitution: levels of priority, and principles with their wordings, exceptions and overrides, read from YAML.

What it says is its hash (:attr:`Constitution.sha256`): comments, key order and line breaks do not change it.
``docs/constitution.md`` tells the schema; :mod:`trueup.feedback.aggregate` how verdicts become a label. A file is read
with all its mistakes told, one line each.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from trueup.errors import ConfigError
from trueup.feedback.precedence import cycle
from trueup.feedback.principles import (
    AppliesTo,
    Conflict,
    Defaults,
    EdgeCase,
    Exemplar,
    Level,
    Mix,
    Part,
    Principle,
    Sample,
    SettledPair,
    Stage,
    Text,
    settled_as,
)
from trueup.settings import read_yaml

VERSION = 1  # of the schema
DEFAULT = "default"
LARGEST = 8 * 2**20  # bytes; a constitution is read by people


class Constitution(Part):
    """Principles under levels of priority.

    Raises:
        ValidationError: a part is wrong, an id stands twice, a level or principle that is named does not exist,
            overrides and resolutions go round in a circle, or two settled cases contradict each other.
    """

    version: Literal[1]
    name: Text
    license: Text | None = None
    extends: str | None = None
    levels: Annotated[tuple[Level, ...], Field(min_length=1)]
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]
    defaults: Defaults = Defaults()
    mix: Mix = Mix()

    @model_validator(mode="after")
    def _sound(self) -> Constitution:
        found = _problems(self)
        if found:
            raise ValueError("\n".join(found))
        return self

    @cached_property
    def sha256(self) -> str:
        """Of the content: the same for another order of keys, other comments, other line breaks in the file.

        The order of levels and principles counts. Of a constitution that extends another, the whole content counts.
        """
        content = self.model_dump(mode="json", exclude={"extends"})
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def principle(self, name: str) -> Principle:
        """By id.

        Raises:
            KeyError: there is none.
        """
        return next((p for p in self.principles if p.id == name), None) or _missing(name)

    def active(self, stage: Stage | None = None) -> list[Principle]:
        """Principles in force, in order of the file; with a stage, those that take part in it."""
        return [p for p in self.principles if p.status == "active" and (stage is None or stage in p.stages)]

    def applicable(
        self, prompt: str, tags: Collection[str] = (), language: str | None = None, *, stage: Stage | None = None
    ) -> list[Principle]:
        """Principles in force that apply to a prompt, in order of the file."""
        return [p for p in self.active(stage) if p.applies_to.matches(prompt, tags, language)]

    def draw(
        self,
        prompt: str,
        *,
        seed: int,
        row: str,
        step: int = 0,
        tags: Collection[str] = (),
        language: str | None = None,
        stage: Stage = "revise",
        sample: Sample | None = None,
    ) -> Principle | None:
        """One principle for a step of a row: always the same for the same seed, row, step and stage.

        Args:
            prompt: what it must apply to (``applicable`` only).
            seed: of the run.
            row: id of the row.
            step: number of the revision or comparison.
            tags: of the row.
            language: of the row.
            stage: what it is drawn for.
            sample: ``uniform`` over all in force, ``weighted`` by their weights, or ``applicable``: by weight among
                those that apply to the prompt; None: the constitution's default.

        Returns:
            None if there is none to draw from.
        """
        how = sample or self.defaults.sample
        among = self.applicable(prompt, tags, language, stage=stage) if how == "applicable" else self.active(stage)
        weights = [1.0 if how == "uniform" else p.weight for p in among]
        digest = hashlib.sha256(json.dumps([seed, row, step, stage]).encode()).digest()
        left = int.from_bytes(digest[:8]) / 2**64 * sum(weights)
        for principle, weight in zip(among, weights, strict=True):
            if left < weight:
                return principle
            left -= weight
        return among[-1] if among else None  # rounding of the sum


def _missing(name: str) -> Principle:
    raise KeyError(f"no principle {name!r}")


def _problems(c: Constitution) -> list[str]:
    """What is wrong between the parts of a constitution, a line each."""
    ids, levels = [p.id for p in c.principles], [level.name for level in c.levels]
    found = [f"principles: the id {i!r} stands {ids.count(i)} times" for i in dict.fromkeys(ids) if ids.count(i) > 1]
    found += [f"levels: {n!r} stands {levels.count(n)} times" for n in dict.fromkeys(levels) if levels.count(n) > 1]
    for p in c.principles:
        if p.level not in levels:
            found.append(f"principles.{p.id}.level: {p.level!r} is none of {', '.join(levels)}")
        for field, named in (("overrides", p.overrides), ("conflicts_with", [x.id for x in p.conflicts_with])):
            found += [f"principles.{p.id}.{field}: there is no principle {n!r}" for n in named if n not in ids]
            found += [f"principles.{p.id}.{field}: names itself" for n in named if n == p.id]
    if not any(p.status == "active" for p in c.principles):
        found.append("principles: none is active")
    round_trip = cycle(prevails(c.principles)) if not found else None
    if round_trip:
        found.append(f"principles: overrides and resolutions go in a circle: {' > '.join(round_trip)}")
    return found + _contradicting_cases(c.principles)


def prevails(principles: Sequence[Principle]) -> dict[str, list[str]]:
    """For each principle, those it sets aside: by override, or by the declared resolution of a conflict."""
    below: dict[str, list[str]] = {p.id: list(p.overrides) for p in principles}
    for p in principles:
        for conflict in p.conflicts_with:
            if conflict.resolution == "this":
                below[p.id].append(conflict.id)
            elif conflict.resolution == "other" and conflict.id in below:
                below[conflict.id].append(p.id)
    return {name: list(dict.fromkeys(others)) for name, others in below.items()}


def _contradicting_cases(principles: Sequence[Principle]) -> list[str]:
    cases = [(p.id, case) for p in principles if p.status == "active" for case in p.edge_cases if case.pair]
    found: list[str] = []
    for at, (owner, case) in enumerate(cases):
        for other_owner, other in cases[at + 1 :]:
            pair = other.pair
            said = settled_as(case, pair.prompt, pair.first, pair.second) if pair else None
            if said not in (None, other.prefers):
                found.append(f"principles.{other_owner}.edge_cases: settles a pair otherwise than {owner} does: "
                             f"{other.situation[:60]!r}")  # fmt: skip
    return found


_PARTS: dict[str, type[BaseModel]] = {
    "": Constitution, "levels": Level, "principles": Principle, "applies_to": AppliesTo, "edge_cases": EdgeCase,
    "exemplars": Exemplar, "conflicts_with": Conflict, "defaults": Defaults, "mix": Mix, "pair": SettledPair,
}  # fmt: skip


def load_constitution(source: Path | str) -> Constitution:
    """A constitution from its file; ``default`` is the bundled one.

    A file that ``extends`` another (a path relative to it, or ``default``) takes over its principles, levels, defaults
    and mix: a principle of the same id is replaced whole, new ones follow, levels replace levels, defaults and mix are
    overridden field by field.

    Raises:
        ConfigError: ``file: field: reason``, a line for each mistake.
    """
    where = str(source)
    return validated(_tree(source, ()), where)


def validated(tree: dict[str, Any], where: str) -> Constitution:
    """A constitution from plain values.

    Raises:
        ConfigError: ``where: field: reason``, a line for each mistake.
    """
    version = tree.get("version")
    if version != VERSION or isinstance(version, bool):
        said = "missing" if version is None else f"{version!r} is not supported"
        raise ConfigError(f"{where}: version: {said}; this trueup reads version {VERSION} of the schema")
    try:
        return Constitution.model_validate(tree)
    except ValidationError as errors:
        lines = [line for e in errors.errors() for line in _lines(e, where, tree)]
        raise ConfigError("\n".join(lines)) from None


def constitution_text(source: Path | str) -> str:
    """The text of the file itself (not of those it extends).

    Raises:
        ConfigError: it cannot be read.
    """
    if str(source) == DEFAULT:
        return (resources.files("trueup.feedback") / "constitutions" / "default.yaml").read_text(encoding="utf-8")
    path = Path(source)
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: larger than {LARGEST >> 20} MiB; that is no constitution")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {reason}; name a file, or `{DEFAULT}`") from None


def _tree(source: Path | str, before: tuple[str, ...]) -> dict[str, Any]:
    where = str(source)
    own = DEFAULT if where == DEFAULT else str(Path(source).resolve())
    if own in before:
        raise ConfigError(f"{where}: extends: files extend each other in a circle: {' > '.join([*before, own])}")
    tree = read_yaml(constitution_text(source), where)
    if tree is None or tree == {}:
        raise ConfigError(f"{where}: empty; a constitution has version, name, levels and principles")
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: a mapping of fields is expected, got {type(tree).__name__}")
    parent = tree.get("extends")
    if not isinstance(parent, str):
        return tree
    from_here = parent if parent == DEFAULT or where == DEFAULT else str(Path(source).parent / parent)
    return _extended(_tree(from_here, (*before, own)), tree, where)


def _extended(base: dict[str, Any], tree: dict[str, Any], where: str) -> dict[str, Any]:
    merged = {**base, **tree}
    for field in ("defaults", "mix"):
        if isinstance(base.get(field), dict) and isinstance(tree.get(field), dict):
            merged[field] = {**base[field], **tree[field]}
    own = tree.get("principles", [])
    if not isinstance(own, list) or not isinstance(base.get("principles"), list):
        raise ConfigError(f"{where}: principles: a list is expected")
    given = {p.get("id"): p for p in own if isinstance(p, dict) and isinstance(p.get("id"), str)}
    taken = {p.get("id") for p in base["principles"] if isinstance(p, dict)}
    replaced = [given.get(p.get("id"), p) if isinstance(p, dict) else p for p in base["principles"]]
    seen: set[str] = set()
    added: list[Any] = []
    for p in own:
        name = p.get("id") if isinstance(p, dict) else None
        if not isinstance(name, str) or name not in taken or name in seen:
            added.append(p)  # a second one of the same id stays, so that it is found
        elif name in taken:
            seen.add(name)
    return {**merged, "principles": [*replaced, *added]}


def _lines(error: Any, where: str, tree: dict[str, Any]) -> list[str]:
    place = _place(error["loc"], tree)
    prefix = f"{where}: {place}: " if place else f"{where}: "
    if error["type"] == "extra_forbidden":
        section = next((str(part) for part in reversed(error["loc"][:-1]) if isinstance(part, str)), "")
        known = list(_PARTS[section].model_fields)
        close = difflib.get_close_matches(str(error["loc"][-1]), known, 1, 0.6)
        hint = f" (did you mean {close[0]}?)" if close else f"; there are {', '.join(known)}"
        return [f"{prefix}unknown field{hint}"]
    if error["type"] == "missing":
        return [f"{prefix}missing"]
    if error["type"] == "value_error":
        return [f"{prefix}{line}" for line in str(error["ctx"]["error"]).split("\n")]
    if error["type"] == "too_short":
        # also said of a list whose parts are all wrong; these have lines of their own
        return [] if isinstance(error["input"], list) and error["input"] else [f"{prefix}empty; at least one is needed"]
    if error["type"] == "string_too_short":
        return [f"{prefix}empty"]
    got, said = repr(error["input"]), error["msg"].replace("tuple", "list")
    return [f"{prefix}{said[0].lower()}{said[1:]}, got {got if len(got) <= 60 else got[:57] + '...'}"]


def _place(loc: tuple[int | str, ...], tree: Any) -> str:
    """``principles.ID.field`` for ``("principles", 3, "field")``: people know ids, not positions."""
    parts: list[str] = []
    node = tree
    for part in loc:
        node = node[part] if isinstance(node, list) and isinstance(part, int) and part < len(node) else (
            node.get(part) if isinstance(node, dict) else None)  # fmt: skip
        name = node.get("id") or node.get("name") if isinstance(part, int) and isinstance(node, dict) else None
        parts.append(name if isinstance(name, str) else str(part + 1) if isinstance(part, int) else part)
    return ".".join(parts)
