"""The audit trail of a stage of Constitutional AI: its log holds everything that the stage's files are made of.

The first line says what the stage was given (constitution, prompts, settings, who is asked); each further line is a
call. A stage is a function of these alone, so its files are made again from the log (:class:`Replay`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trueup.errors import DataError, RunError
from trueup.feedback.constitution import Constitution, validated
from trueup.feedback.constitution_diff import differences
from trueup.feedback.speaker import Failure, Question, Reply, Said
from trueup.recipes.answers import shown
from trueup.runs.encode import plain
from trueup.runs.journal import Journal, read_journal
from trueup.runs.metrics import read_jsonl
from trueup.types import Prompt, Text


def told(constitution: Constitution) -> dict[str, Any]:
    """A constitution as the log keeps it."""
    return plain(constitution.model_dump(mode="json", exclude={"extends"}))


def of_log(given: Mapping[str, Any], where: str) -> Constitution:
    """The inverse of :func:`told`, from the first line of a log."""
    return validated(dict(given["constitution"]), where)


def begin(path: Path, given: Mapping[str, Any]) -> Journal:
    """Opens the log of a stage, or goes on with it.

    Raises:
        RunError: it was begun with something else; of a constitution, the difference is told.
    """
    given = plain(dict(given))
    lines = read_jsonl(path) if path.exists() else []
    kept = lines[0].get("journal") if lines else None
    if isinstance(kept, Mapping):
        differing(path, kept, given)
    return Journal(path, given)


def differing(path: Path, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Compares what a job was begun with to what it is asked to go on with.

    Raises:
        RunError: they differ; of a constitution, the difference is told.
    """
    if kept.get("constitution") != given["constitution"]:
        changes = differences(of_log(kept, str(path)), of_log(given, "constitution"))
        head = f"{path}: was begun with another constitution; put it back, or name another folder"
        raise RunError("\n".join([head, *changes]))
    for name in sorted({*kept, *given}):
        if kept.get(name) != given.get(name):
            told = _apart(name, kept.get(name), given.get(name))
            raise RunError(f"{path}: was begun with {told}; put it back, or name another folder")


def _apart(name: str, before: Any, now: Any) -> str:
    """How two values differ; of mappings, the entries that do."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        apart = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        return "; ".join(_apart(str(k), before.get(k), now.get(k)) for k in apart)
    return f"{name} {str(before)[:80]}, now {str(now)[:80]}"


def given_of(path: Path) -> dict[str, Any]:
    """What a stage was given; every line of its log is checked.

    Raises:
        RunError: no log, or ``path:line:`` a line that was changed.
    """
    if not path.exists():
        raise RunError(f"{path}: there is no log")
    return next(iter(list(read_journal(path))))["journal"]


class Replay:
    """A speaker that answers from a log and makes no call; what failed, fails again."""

    def __init__(self, identity: str, journal: Journal) -> None:
        self.identity, self.journal = identity, journal

    def ask(self, question: Question) -> Reply | Failure:
        """What the log says; only asked for what it holds no answer to."""
        key, last = question.key(self.identity), None
        for number in range(1, 1000):
            if (found := self.journal.records.get(f"{key}/failed/{number}")) is None:
                break
            last = found
        return Failure(last["failed"] if last else "the log holds no answer", lasting=True)

    def ask_many(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | Failure]]:
        """As :meth:`ask`."""
        return ((i, self.ask(q)) for i, q in enumerate(questions))


def rows_of(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Prompts as the log keeps them; one that comes again is left out.

    Raises:
        DataError: a prompt without text, or one that is answered already.
    """
    rows: dict[str, dict[str, Any]] = {}
    for row in prompts:
        turns = turns_of(row.prompt)
        if not turns or not turns[-1][1].strip():
            raise DataError(f"{row.origin}: prompt: is empty")
        if turns[-1][0] != "user":
            raise DataError(
                f"{row.origin}: prompt: ends with a turn of the {turns[-1][0]}; a prompt without its answer is expected"
            )
        meta = {k: row.meta[k] for k in ("tags", "language") if k in row.meta}
        rows.setdefault(str(turns), {"id": row.id, "prompt": plain(shown(row.prompt)), "meta": plain(meta)})
    return list(rows.values())


def turns_of(prompt: Text) -> tuple[Said, ...]:
    """A prompt as turns (role, content); raw text is a turn of the user."""
    if isinstance(prompt, str):
        return (("user", prompt),)
    return tuple((str(t["role"]), str(t["content"])) for t in prompt)
