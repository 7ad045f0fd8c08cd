"""What differs between two constitutions, in lines for a person."""

from __future__ import annotations

import json
from typing import Any

from trueup.feedback.constitution import Constitution


def differences(before: Constitution, after: Constitution) -> list[str]:
    """A line a difference, ``- `` for what is gone, ``+ `` for what is new, ``~ `` for what changed; none if equal.

    The hash sees what this sees: no line means the same hash.
    """
    a, b = (c.model_dump(mode="json", exclude={"extends"}) for c in (before, after))
    lines = _fields("", a, b, skip=("levels", "principles"))
    if a["levels"] != b["levels"]:
        lines.append(f"~ levels: {_levels(a)} -> {_levels(b)}")
    old, new = ({p["id"]: p for p in c["principles"]} for c in (a, b))
    lines += [f"- principle {name}: {old[name]['statement']}" for name in old if name not in new]
    lines += [f"+ principle {name}: {new[name]['statement']}" for name in new if name not in old]
    for name in old:
        if name in new:
            lines += _fields(f"{name}.", old[name], new[name])
    shared_old, shared_new = [n for n in old if n in new], [n for n in new if n in old]
    if shared_old != shared_new:
        lines.append(f"~ order of principles: {', '.join(shared_old)} -> {', '.join(shared_new)}")
    return lines


def _levels(tree: dict[str, Any]) -> str:
    return ", ".join(f"{level['name']} ({level['kind']})" for level in tree["levels"])


def _fields(prefix: str, a: dict[str, Any], b: dict[str, Any], skip: tuple[str, ...] = ()) -> list[str]:
    lines: list[str] = []
    for key in a:
        old, new = a[key], b[key]
        if key in skip or old == new:
            continue
        if isinstance(old, list) and isinstance(new, list):
            lines += _items(f"{prefix}{key}", old, new)
        elif isinstance(old, dict) and isinstance(new, dict):
            lines += _fields(f"{prefix}{key}.", old, new)
        else:
            lines.append(f"~ {prefix}{key}: {_shown(old)} -> {_shown(new)}")
    return lines


def _items(where: str, old: list[Any], new: list[Any]) -> list[str]:
    lines = [f"- {where}: {_shown(item)}" for item in old if item not in new]
    lines += [f"+ {where}: {_shown(item)}" for item in new if item not in old]
    return lines or [f"~ {where}: {_shown(old)} -> {_shown(new)}"]  # another order, or another count of equals


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if v is not None}
    return json.dumps(value, ensure_ascii=False)
