"""Answers to be evaluated: drawn from a model, read from a file, or the references that the prompts came with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trueup.data.fields import RowFault, Source, text
from trueup.data.read import records
from trueup.data.render import Chat
from trueup.errors import ConfigError, DataError
from trueup.feedback.base import Answered
from trueup.models.policy import Policy
from trueup.models.sample import LocalSampler
from trueup.models.sampling import Sampler, Sampling
from trueup.recipes.answers import Progress, Servers, draw_into, prompts_hash, read_prompts
from trueup.recipes.build import Machine
from trueup.runs.encode import plain
from trueup.runs.journal import Journal
from trueup.types import Prompt, Text

REFERENCE = "reference"  # name of the answers that stand beside the prompts
_PROMPT_FIELDS = ("prompt", "instruction")
_ANSWER_FIELDS = ("answer", "completion", "output", "response")
SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """Whose answers are evaluated.

    Attributes:
        name: short, unique.
        source: a model, a file of answers, or :data:`REFERENCE`.
        kind: ``model``, ``file`` or ``reference``.
        servers: where the model runs; None: in this process.
    """

    name: str
    source: str
    kind: str
    servers: Servers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A contestant's answers, in the order of the prompts; several to a prompt stand together.

    Attributes:
        who: the contestant.
        identity: path and hash.
        rows: the answers.
        index: which answer to its prompt each one is.
        ids: token ids of each answer, ending token included, where they were drawn in this process; else None.
    """

    who: Contestant
    identity: str
    rows: tuple[Answered, ...]
    index: tuple[int, ...]
    ids: tuple[np.ndarray, ...] | None = None


@dataclass(slots=True)
class Prompts:
    """What is asked, each prompt once.

    Attributes:
        rows: the prompts.
        warnings: what was merged or left out.
    """

    rows: list[Prompt]
    warnings: list[str] = field(default_factory=list[str])

    @property
    def by_key(self) -> dict[str, Prompt]:
        """The prompts by :func:`prompt_key`."""
        return {prompt_key(p.prompt): p for p in self.rows}


def prompt_key(prompt: Text) -> str:
    """What two prompts must share to be the same: one user turn and raw text with its words are."""
    if not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].get("role") == "user":
        prompt = str(prompt[0].get("content") or "")
    return prompt if isinstance(prompt, str) else "\0".join(f"{t.get('role')}\1{t.get('content')}" for t in prompt)


def unique_prompts(rows: Sequence[Prompt], where: str, limit: int | None = None) -> Prompts:
    """Prompts without those that stand twice, which would count twice as evidence; says how many there were."""
    first: dict[str, Prompt] = {}
    for row in rows:
        first.setdefault(prompt_key(row.prompt), row)
    found = Prompts(list(first.values())[:limit])
    if twice := len(rows) - len(first):
        found.warnings.append(f"{where}: {twice} of {len(rows)} prompts are repeated; each is asked and counted once")
    return found


def named(word: str, kind: str, servers: Servers | None = None) -> Contestant:
    """A contestant from ``NAME=SOURCE`` or ``SOURCE``, whose name is then its last part.

    Raises:
        ConfigError: an empty name or source.
    """
    name, equals, source = word.partition("=")
    if not equals or "/" in name or ":" in name:
        name, source = "", word
    if not source or (equals and not name and source != word):
        raise ConfigError(f"--{'model' if kind == 'model' else 'answers'}: {word!r}: NAME=SOURCE or SOURCE is expected")
    if not name:
        parts = [p for p in re.split(r"[/\\]", source.rstrip("/\\")) if p]
        last = parts[-1] if parts else source
        name = parts[-2] if last == "model" and len(parts) > 1 else last
        name = re.sub(r"\.(jsonl|json|csv|parquet)(\.gz|\.zst)?$", "", name).removeprefix("bundled:")
    return Contestant(name=name, source=source, kind=kind, servers=servers)


# ── from a model ──


def draw(
    who: Contestant,
    sampler: Sampler,
    prompts: Prompts,
    sampling: Sampling,
    journal: Path,
    machine: Machine,
    *,
    chat: Chat = "auto",
    tell: Progress | None = None,
) -> Answers:
    """Answers of a model; what the journal holds is not drawn again.

    Raises:
        DataError: a prompt that does not fit.
        RunError: the journal was begun with something else.
    """
    told: Mapping[str, Any] = {
        "model": sampler.identity,
        "precision": None if who.servers else str(machine.dtype),
        "sampling": plain(asdict(sampling)),
        "chat": chat,
        "prompts": prompts_hash(prompts.rows),
    }
    with Journal(journal, told) as kept:
        draw_into(kept, sampler, prompts.rows, sampling, tell=tell)
        keys = [(p, k) for p in prompts.rows for k in range(sampling.n)]
        found = [kept.records[f"{p.id}#{k}"] for p, k in keys]
    rows = tuple(
        Answered(
            id=p.id, prompt=p.prompt, answer=r["answer"], truncated=r["finish"] == "length", tokens=r["tokens"],
            meta=p.meta,
        )
        for (p, _), r in zip(keys, found, strict=True)
    )  # fmt: skip
    ids = None
    if isinstance(sampler, LocalSampler):
        ids = tuple(np.array(r["ids"], dtype=np.int32) for r in found)
    return Answers(who=who, identity=sampler.identity, rows=rows, index=tuple(k for _, k in keys), ids=ids)


def policy_of(sampler: Sampler) -> Policy | None:
    """The model behind a sampler of this process."""
    return sampler.policy if isinstance(sampler, LocalSampler) else None


# ── from a file ──


@dataclass(frozen=True, slots=True)
class _Line:
    origin: str
    id: str | None
    prompt: Text | None
    answer: str
    truncated: bool
    tokens: int | None


def _lines(path: str) -> Iterator[_Line]:
    """Rows of a file of answers: of `trueup sample`, of AlpacaEval, or with a prompt and a completion."""
    for record in records(path):
        origin = record.origin or f"{path}:{record.line}"
        if record.fields is None:
            raise DataError(f"{origin}: {record.fault or 'cannot be read'}")
        row, source = record.fields, Source(id="", origin=origin, kind=record.kind)
        place = next((f for f in _ANSWER_FIELDS if row.get(f) is not None), None)
        if place is None:
            raise DataError(
                f"{origin}: no answer: one of {', '.join(_ANSWER_FIELDS)} is expected, got {', '.join(row)}"
            )
        asked = next((f for f in _PROMPT_FIELDS if row.get(f)), None)
        try:
            prompt = None if asked is None else text(row, asked, source)
            answer = _one_turn(text(row, place, source, blank=True), place)
        except RowFault as fault:
            raise DataError(f"{origin}: {fault}") from None
        name, tokens = row.get("id"), row.get("tokens")
        if prompt is None and not isinstance(name, str):
            raise DataError(f"{origin}: neither a prompt nor an id: it cannot be told what is answered")
        yield _Line(
            origin, name if isinstance(name, str) else None, prompt, answer,
            row.get("finish") == "length" or row.get("truncated") is True,
            tokens if isinstance(tokens, int) else None,
        )  # fmt: skip


def _one_turn(answer: Text, field: str) -> str:
    if isinstance(answer, str):
        return answer
    content = answer[0].get("content") if len(answer) == 1 else None
    if not isinstance(content, str):
        raise RowFault(field, f"one assistant turn of text is expected, got {len(answer)} turns")
    return content


def prompts_of_file(path: str, limit: int | None = None) -> Prompts:
    """The prompts that a file of answers holds.

    Raises:
        DataError: a row without a prompt, or no row.
    """
    rows: dict[str, Prompt] = {}
    names: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):  # the elements of a JSON list may share one line of the file
        if line.prompt is None:
            raise DataError(f"{line.origin}: has no prompt; name the prompts with --data")
        key, name = prompt_key(line.prompt), line.id or f"{Path(path).name}#{number}"
        rows.setdefault(key, Prompt(id=name, origin=line.origin, prompt=line.prompt))
        if names.setdefault(name, key) != key:
            raise DataError(f"{line.origin}: id: {name!r} is also that of another prompt")
    if not rows:
        raise DataError(f"{path}: holds no answer")
    return Prompts(list(rows.values())[:limit])


def read_prompts_of(data: str, limit: int | None = None) -> Prompts:
    """The prompts of a file, each once.

    Raises:
        DataError: as :func:`trueup.recipes.answers.read_prompts`.
    """
    return unique_prompts(read_prompts(data), data, limit)


def read_answers(who: Contestant, prompts: Prompts, *, limited: bool = False) -> Answers:
    """Answers of a file, matched to the prompts by their text, or by id where the file holds no prompts.

    Args:
        who: the contestant.
        prompts: what was asked.
        limited: only the first prompts are wanted: answers to others are left out instead of refused.

    Raises:
        DataError: an answer to no prompt, a prompt without an answer, or different numbers of answers.
    """
    by_key, by_id = prompts.by_key, {p.id: p for p in prompts.rows}
    found: dict[str, list[_Line]] = {p.id: [] for p in prompts.rows}
    strangers: list[str] = []
    for line in _lines(who.source):
        row = by_key.get(prompt_key(line.prompt)) if line.prompt is not None else by_id.get(line.id or "")
        if row is None:
            strangers.append(line.origin)
        else:
            found[row.id].append(line)
    missing = [p for p in prompts.rows if not found[p.id]]
    if strangers and not limited:
        raise DataError(
            f"{who.source}: {len(strangers)} of its answers belong to none of the {len(prompts.rows)} prompts "
            f"({_some(strangers)}); evaluate each file against the prompts it was made from"
        )
    if missing:
        raise DataError(
            f"{who.source}: no answer of {who.name} to {len(missing)} of {len(prompts.rows)} prompts "
            f"({_some([p.id for p in missing])}); a figure over the others would flatter or punish; draw those too, or "
            "take the prompts out of --data"
        )
    sizes = sorted({len(lines) for lines in found.values()})
    if len(sizes) > 1:
        raise DataError(f"{who.source}: {sizes[0]} to {sizes[-1]} answers a prompt; the same number of each is needed")
    pairs = [(p, k, line) for p in prompts.rows for k, line in enumerate(found[p.id])]
    rows = tuple(
        Answered(id=p.id, prompt=p.prompt, answer=x.answer, truncated=x.truncated, tokens=x.tokens, meta=p.meta)
        for p, _, x in pairs
    )
    return Answers(
        who=who, identity=f"{who.source}@{file_hash(who.source)}", rows=rows, index=tuple(k for _, k, _ in pairs)
    )


def reference_answers(prompts: Prompts) -> Answers:
    """The answers that the rows of the prompts hold.

    Raises:
        DataError: a prompt without one.
    """
    missing = [p.id for p in prompts.rows if not isinstance(p.meta.get("answer"), str)]
    if missing:
        raise DataError(
            f"--baseline {REFERENCE}: {len(missing)} of {len(prompts.rows)} prompts have no reference answer "
            f"({_some(missing)}); --data needs a completion beside each prompt"
        )
    who = Contestant(name=REFERENCE, source=REFERENCE, kind="reference")
    rows = tuple(Answered(id=p.id, prompt=p.prompt, answer=p.meta["answer"], meta=p.meta) for p in prompts.rows)
    return Answers(who=who, identity=prompts_hash(prompts.rows), rows=rows, index=(0,) * len(rows))


def file_hash(path: str) -> str:
    """First 16 digits of the sha256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
