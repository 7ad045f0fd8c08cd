"""`trueup sample`: answers to a file of prompts, resumable after a kill with no answer drawn twice."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trueup.data.read import read_rows
from trueup.data.render import Chat, Renderer, RowRejected
from trueup.data.write import write_rows
from trueup.errors import DataError
from trueup.models.endpoint import Endpoints
from trueup.models.load import load_causal_lm, load_tokenizer
from trueup.models.policy import Policy
from trueup.models.remote import RemoteSampler
from trueup.models.sample import LocalSampler, PromptIds, context_of
from trueup.models.sampling import Sample, Sampler, Sampling, Speed
from trueup.models.source import identity
from trueup.models.wire import Endpoint
from trueup.recipes.build import Machine
from trueup.runs.encode import plain
from trueup.runs.journal import Journal
from trueup.types import Prompt, Text

log = logging.getLogger(__name__)

Progress = Callable[[int, int, Speed], None]


@dataclass(frozen=True, slots=True)
class Servers:
    """Endpoints that answer instead of this process.

    Attributes:
        endpoints: all for one model.
    """

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How sampling ended.

    Attributes:
        answers: in the file.
        drawn: in this call; the rest was there from an interrupted one.
        speed: of this call.
    """

    answers: int
    drawn: int
    speed: Speed


def read_prompts(path: str, *, limit: int | None = None) -> list[Prompt]:
    """Prompts of a file of any format that holds them.

    Raises:
        DataError: no prompts, rows that cannot be used, or two rows with one id.
    """
    rows: list[Any] = list(read_rows(path, wanted=Prompt).rows)[:limit]
    if not rows:
        raise DataError(f"{path}: there is no prompt in it")
    seen: dict[str, str] = {}
    for row in rows:
        if row.id in seen:
            raise DataError(f"{row.origin}: id: {row.id!r} is also that of {seen[row.id]}")
        seen[row.id] = row.origin
    return rows


def open_sampler(
    path: str, machine: Machine, revision: str | None = None, *, slots: int = 64, chat: Chat = "auto"
) -> LocalSampler:
    """A model as a sampler.

    Args:
        path: of the model.
        revision: of a hub model.
        machine: where it runs.
        slots: answers at once.
        chat: whether raw prompts become a user turn; see :class:`trueup.data.render.Renderer`.

    Raises:
        ModelError: it cannot be used.
    """
    tokenizer = load_tokenizer(path, revision)
    model: Any = load_causal_lm(path, dtype=machine.dtype, revision=revision)
    policy = Policy(model.to(machine.device), int(tokenizer.pad_token_id))  # type: ignore[arg-type]
    renderer = Renderer(tokenizer, chat=chat, max_length=context_of(policy))
    return LocalSampler(
        policy, tokenizer, identity=f"{path}@{identity(path, revision)}", slots=slots, renderer=renderer
    )


@contextmanager
def opened(
    model: str, machine: Machine, servers: Servers | None, *, slots: int = 64, chat: Chat = "auto"
) -> Iterator[Sampler]:
    """A model as a sampler: in this process, or behind servers, which are checked first.

    Raises:
        ModelError: it cannot be used, or a server does not serve it.
    """
    if servers is None:
        yield open_sampler(model, machine, slots=slots, chat=chat)
        return
    with Endpoints(servers.endpoints) as endpoints:
        endpoints.check()
        yield RemoteSampler(endpoints)


def rendered(sampler: LocalSampler, prompts: Sequence[Prompt]) -> list[PromptIds]:
    """Prompts as tokens.

    Raises:
        DataError: a prompt that cannot be rendered or is longer than the context.
    """
    found: list[PromptIds] = []
    for row in prompts:
        try:
            found.append(PromptIds(id=row.id, ids=sampler.renderer.prompt(row)))
        except RowRejected as error:
            raise DataError(f"{row.origin}: {error}") from None
    return found


def draw_into(
    journal: Journal,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    prefix: str = "",
    tell: Progress | None = None,
) -> int:
    """Draws what the journal does not hold yet; returns how many answers that were.

    Keys are ``<prefix><prompt id>#<index>``.
    """
    missing = {p.id: [k for k in range(sampling.n) if f"{prefix}{p.id}#{k}" not in journal] for p in prompts}
    total = sum(map(len, missing.values()))
    if total == 0:
        return 0
    for done, sample in enumerate(sampler.sample(prompts, sampling, lambda name: missing[name]), 1):
        journal.add(f"{prefix}{sample.prompt}#{sample.index}", record_of(sample))
        if tell is not None:
            tell(done, total, sampler.speed)
    return total


def record_of(sample: Sample) -> dict[str, Any]:
    """A sample as plain values."""
    return {
        "answer": sample.text,
        "finish": sample.finish,
        "ids": None if sample.ids is None else sample.ids.tolist(),
        "tokens": sample.tokens,
        "logprob": None if sample.logprobs is None else float(sample.logprobs.sum()),
        "model_logprob": None if sample.model_logprobs is None else float(sample.model_logprobs.sum()),
    }


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """sha256 over ids and texts of prompts, in order."""
    digest = hashlib.sha256()
    for row in prompts:
        digest.update(json.dumps([row.id, shown(row.prompt)], ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def shown(text: Text) -> Any:
    """A text as JSON holds it."""
    return text if isinstance(text, str) else [dict(t) for t in text]


def sample_file(
    model: str,
    data: str,
    out: Path,
    sampling: Sampling,
    machine: Machine,
    *,
    limit: int | None = None,
    slots: int = 64,
    chat: Chat = "auto",
    servers: Servers | None = None,
    tell: Progress | None = None,
) -> Outcome:
    """Answers every prompt of ``data`` ``sampling.n`` times into ``out``.

    While it works, finished answers are in ``<out>.part``; the same call goes on from there. A line has ``id``,
    ``prompt``, ``index``, ``answer``, ``finish``, ``tokens``, ``logprob`` (of the distribution drawn from),
    ``model_logprob`` and ``model``.

    Raises:
        DataError: prompts that cannot be used, or a file that is there.
        RunError: the unfinished file was begun with something else.
    """
    if out.exists():
        raise DataError(f"{out}: exists already; name another file")
    prompts = read_prompts(data, limit=limit)
    with opened(model, machine, servers, slots=slots, chat=chat) as sampler:
        who: Mapping[str, Any] = {
            "model": sampler.identity,
            "precision": None if servers else str(machine.dtype),
            "sampling": plain(asdict(sampling)),
            "chat": chat,
            "prompts": prompts_hash(prompts),
        }
        with Journal(out.with_name(out.name + ".part"), who) as journal:
            if journal.resumed:
                log.info("%s: going on, %d answers are there", out, journal.resumed)
            drawn = draw_into(journal, sampler, prompts, sampling, tell=tell)
            rows = [
                _line(p, k, journal.records[f"{p.id}#{k}"], sampler.identity)
                for p in prompts
                for k in range(sampling.n)
            ]
            write_rows(out, rows)
            journal.remove()
    return Outcome(len(rows), drawn, sampler.speed)


def _line(prompt: Prompt, index: int, record: Mapping[str, Any], model: str) -> dict[str, Any]:
    kept = {k: v for k, v in record.items() if k != "ids"}
    return {"id": prompt.id, "prompt": shown(prompt.prompt), "index": index, **kept, "model": model}
