"""A settled case, written into the file of a constitution as an edge case; the rest of the text stays as it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trueup.data.write import whole_file
from trueup.errors import ConfigError
from trueup.feedback.constitution import DEFAULT, Constitution, constitution_text, load_constitution
from trueup.feedback.principles import EdgeCase
from trueup.settings import read_yaml


@dataclass(frozen=True, slots=True)
class Settled:
    """What was written: hashes of the whole constitution before and after, and the new text of the file."""

    before: str
    after: str
    text: str


def settle(path: Path, principle: str, case: EdgeCase) -> Settled:
    """Appends a case to a principle's edge cases, in place, atomically: the file is the old one or the new one.

    Comments, order and quoting of everything else stay. The new text is read again before it replaces the old one, and
    must say what the old one said plus the case.

    Args:
        path: the file; the bundled constitution is not changed.
        principle: id, of this very file (not of one that it extends).
        case: with author and date.

    Raises:
        ConfigError: no such principle here, the case is there already or contradicts another, or the text is laid out
            so that the case cannot be put in.
        ResourceError: the file cannot be written.
    """
    if str(path) == DEFAULT:
        raise ConfigError(f"{path}: the bundled constitution is not changed; make a file that says `extends: {DEFAULT}`"
                          " and holds the principle, and settle the case there")  # fmt: skip
    old = load_constitution(path)
    text = constitution_text(path)
    node = _principle(yaml.compose(text, yaml.SafeLoader), principle)
    if node is None:
        raise ConfigError(f"{path}: {_absent(old, principle)}")
    if case in old.principle(principle).edge_cases:
        raise ConfigError(f"{path}: principles.{principle}.edge_cases: this case is there already")
    new_text = _with_case(text, node, _plain(case))
    target = path.resolve()  # a link stays a link
    if b"\r\n" in target.read_bytes():  # read as \n; the lines keep the ends that they had
        new_text = new_text.replace("\n", "\r\n")
    with whole_file(target, overwrite=True) as draft:
        draft.write_bytes(new_text.encode())
        draft.chmod(target.stat().st_mode & 0o777)
        new = load_constitution_text(draft, path)
        if not _only_added(old, new, principle, case):
            raise ConfigError(f"{path}: principles.{principle}: cannot be added to as it is laid out; add by hand: "
                              f"edge_cases: [{json.dumps(_plain(case), ensure_ascii=False)}]")  # fmt: skip
    return Settled(old.sha256, new.sha256, new_text)


def load_constitution_text(draft: Path, path: Path) -> Constitution:
    """The constitution of a draft beside its file, with messages that name the file.

    Raises:
        ConfigError: as :func:`load_constitution`.
    """
    try:
        return load_constitution(draft)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(draft), str(path))) from None


def _absent(constitution: Constitution, principle: str) -> str:
    if any(p.id == principle for p in constitution.principles):
        return (
            f"principles.{principle}: stands in {constitution.extends}, which this file extends; settle it there, or "
            "copy the principle into this file"
        )
    return f"there is no principle {principle!r}; there are {', '.join(p.id for p in constitution.principles)}"


def _plain(case: EdgeCase) -> dict[str, Any]:
    return case.model_dump(mode="json", exclude_none=True)


def _principle(root: yaml.Node | None, name: str) -> yaml.MappingNode | None:
    listed = _field(root, "principles")
    if not isinstance(listed, yaml.SequenceNode):
        return None
    for node in listed.value:
        found = _field(node, "id")
        if isinstance(node, yaml.MappingNode) and isinstance(found, yaml.ScalarNode) and found.value == name:
            return node
    return None


def _field(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if getattr(key, "value", None) == name), None)


def _with_case(text: str, principle: yaml.MappingNode, case: dict[str, Any]) -> str:
    """The text with a case more: in braces as JSON where the place is in braces, else as lines of their own."""
    cases = _field(principle, "edge_cases")
    inline = json.dumps(case, ensure_ascii=False)
    if isinstance(cases, yaml.SequenceNode) and cases.flow_style:
        at = cases.value[-1].end_mark.index if cases.value else cases.end_mark.index - 1  # the closing bracket
        return f"{text[:at]}{', ' if cases.value else ''}{inline}{text[at:]}"
    if isinstance(cases, yaml.SequenceNode):
        return _after_line(text, _end(cases), _lines(case, cases.start_mark.column))
    if principle.flow_style:
        at = principle.value[-1][1].end_mark.index
        return f"{text[:at]}, edge_cases: [{inline}]{text[at:]}"
    column = principle.value[0][0].start_mark.column
    return _after_line(text, _end(principle), f"{' ' * column}edge_cases:\n{_lines(case, column + 2)}")


def _lines(case: dict[str, Any], column: int) -> str:
    dumped = yaml.safe_dump([case], sort_keys=False, allow_unicode=True, width=100 if column < 40 else 200)
    return "".join(f"{' ' * column}{line}\n" for line in dumped.splitlines())


def _end(node: yaml.Node) -> int:
    """Where the last leaf of a block ends (the mark of the block itself stands behind the comments that follow it)."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(node, yaml.MappingNode) else last
    return node.end_mark.index


def _after_line(text: str, at: int, lines: str) -> str:
    at = len(text[:at].rstrip())  # a block scalar ends behind its blank lines
    end = text.find("\n", at)
    return f"{text}\n{lines}" if end < 0 else f"{text[: end + 1]}{lines}{text[end + 1 :]}"


def _only_added(old: Constitution, new: Constitution, principle: str, case: EdgeCase) -> bool:
    grown = old.model_dump(mode="json")
    for p in grown["principles"]:
        if p["id"] == principle:
            p["edge_cases"].append(case.model_dump(mode="json"))
    return grown == new.model_dump(mode="json")


def queued_pair(path: Path, row: str) -> dict[str, Any]:
    """The pair of a row of a queue of contested pairs (``conflicts.jsonl``): its prompt and two answers.

    Raises:
        ConfigError: the file cannot be read, has no such row, or the row has no texts.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    for number, line in enumerate(lines, 1):
        record = read_yaml(line, f"{path}:{number}") if line.strip() else None  # JSON is YAML
        if isinstance(record, dict) and str(record.get("row")) == row:
            prompt, answers = record.get("prompt"), record.get("answers")
            if not isinstance(prompt, str) or not isinstance(answers, list) or len(answers) != 2:
                raise ConfigError(f"{path}:{number}: a prompt and two answers are expected, as in {QUEUE_LINE}")
            return {"prompt": prompt, "first": answers[0], "second": answers[1]}
    raise ConfigError(f"{path}: no row {row!r} in it")


QUEUE_LINE = '{"row": ..., "prompt": ..., "answers": [first, second]}'
