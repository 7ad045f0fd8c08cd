"""The settings of runs as flat tables: what was set, what was left as it is, what differs between runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from trueup.config import RunConfig
from trueup.reports.numbers import MINUS

MISSING = object()


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its dotted name, its value in words, and whether it is another one than the default."""

    name: str
    value: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that is not the same in all runs: its value in each, and whether that is the most common one."""

    name: str
    values: Sequence[tuple[str, bool]]


def settings_of(config: Mapping[str, Any]) -> list[Setting]:
    """Every setting of a run, in the order of the file."""
    return [Setting(name, shown(value), _changed(name, value)) for name, value in flat(config).items()]


def differing(configs: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Settings that are not the same in all runs, in the order of the first that has them."""
    tables = [flat(c) for c in configs]
    names = list(dict.fromkeys(name for t in tables for name in t))
    found: list[Difference] = []
    for name in names:
        values = [shown(t[name]) if name in t else "–" for t in tables]
        if len(set(values)) > 1:
            common = max(values, key=values.count)
            found.append(Difference(name, [(v, v == common and values.count(common) > 1) for v in values]))
    return found


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names; empty mappings are left out."""
    if not isinstance(value, Mapping):
        return {name: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{name}.{key}" if name else str(key))
    return found


def shown(value: Any) -> str:
    """A value as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}".replace("-", MINUS)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _changed(name: str, value: Any) -> bool:
    default = default_of(name)
    plain = list(default) if isinstance(default, tuple) else default
    return default is MISSING or plain != value


def default_of(name: str) -> Any:
    """The default of a dotted setting; :data:`MISSING` for those that have none."""
    model: Any = RunConfig
    *sections, last = name.split(".")
    for section in sections:
        field = model.model_fields.get(section)
        model = None if field is None else _model(field.annotation)
        if model is None:
            return MISSING
    field = model.model_fields.get(last)
    if field is None or field.is_required():
        return MISSING
    return field.get_default(call_default_factory=True)


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, also where it may be absent."""
    kinds = [annotation, *getattr(annotation, "__args__", ())]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
