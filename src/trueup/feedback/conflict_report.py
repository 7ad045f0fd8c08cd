"""Verdicts kept in a file, and what they say of the conflicts between principles.

A line a pair: ``{"row": id, "prompt": text, "answers": [first, second], "verdicts": {principle: p or null}}``; other
fields are left alone. The prompt and the answers may be missing; settled cases are then not recognised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from trueup.data.read import records
from trueup.errors import DataError
from trueup.feedback.aggregate import Pair, Verdicts
from trueup.feedback.conflicts import (
    Ablation,
    Clash,
    Contested,
    Table,
    ablation,
    conflict_matrix,
    contested_pairs,
    queue_lines,
)
from trueup.feedback.constitution import Constitution


def verdict_line(row: str, pair: Pair, verdicts: Verdicts) -> dict[str, Any]:
    """A line of the file."""
    return {"row": row, "prompt": pair.prompt, "answers": [pair.first, pair.second], "verdicts": dict(verdicts)}


def read_verdicts(path: Path | str, constitution: Constitution) -> tuple[dict[str, Verdicts], dict[str, Pair]]:
    """Verdicts by row, and the texts of the rows that have them.

    Raises:
        DataError: ``file:line: field: reason``; a file without lines.
    """
    names = {p.id for p in constitution.active()}
    table: dict[str, Verdicts] = {}
    pairs: dict[str, Pair] = {}
    for record in records(path):
        origin = record.origin or f"{path}:{record.line}"
        if record.fields is None:
            raise DataError(f"{origin}: {record.fault or 'cannot be read'}")
        row = record.fields.get("row", record.fields.get("id"))
        if not isinstance(row, str | int) or isinstance(row, bool):
            raise DataError(f"{origin}: row: the id of the row is expected, got {row!r}")
        if str(row) in table:
            raise DataError(f"{origin}: row: {str(row)!r} stands twice")
        table[str(row)] = _verdicts(record.fields.get("verdicts"), names, origin)
        prompt, answers = record.fields.get("prompt"), record.fields.get("answers")
        if isinstance(prompt, str) and _two_texts(answers):
            pairs[str(row)] = Pair(prompt, *answers)
    if not table:
        raise DataError(f"{path}: there is no line in it")
    return table, pairs


def _two_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)


def _verdicts(value: Any, names: set[str], origin: str) -> Verdicts:
    if not isinstance(value, Mapping):
        raise DataError(f"{origin}: verdicts: an object of principle and probability is expected, got {value!r}")
    for name, p in value.items():
        if name not in names:
            raise DataError(f"{origin}: verdicts: {name!r} is no principle in force of this constitution")
        if p is not None and (isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1):
            raise DataError(f"{origin}: verdicts.{name}: a probability or null is expected, got {p!r}")
    return dict(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictReport:
    """Matrix, queue and ablation of one set of verdicts.

    Attributes:
        rows: how many pairs of answers.
        matrix: every two principles.
        queue: pairs for a person.
        ablation: every principle left out in turn.
    """

    rows: int
    matrix: tuple[Clash, ...]
    queue: tuple[Contested, ...]
    ablation: tuple[Ablation, ...]

    @property
    def alarms(self) -> list[Clash]:
        """Principles of one level that disagree too often."""
        return [cell for cell in self.matrix if cell.alarm]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "rows": self.rows, "alarms": len(self.alarms), "matrix": [cell.to_json() for cell in self.matrix],
            "queue": [c.to_json() for c in self.queue], "ablation": [a.to_json() for a in self.ablation],
        }  # fmt: skip

    def lines(self, most: int = 10) -> list[str]:
        """For a person: alarms, then the couples that disagree most, the queue, and what each principle changes."""
        judged = [cell for cell in self.matrix if cell.pairs]
        worst = sorted(judged, key=lambda cell: (not cell.alarm, -cell.disagree))[:most]
        told = [f"{self.rows} pairs; couples of principles judged on the same pairs: {len(judged)}"]
        told += [cell.line() for cell in worst if cell.alarm or cell.disagree > 0]
        told.append(f"alarms: {len(self.alarms)} (principles of one level that disagree on more than a tenth)")
        told.append(f"pairs for a person: {len(self.queue)}, of which without a label until then: "
                    f"{sum(c.waits for c in self.queue)}")  # fmt: skip
        told += [f"  {c.row}: {c.first} {c.p_first:.2f} against {c.second} {c.p_second:.2f}" for c in self.queue[:most]]
        told.append("labels without one principle:")
        told += [
            f"  {a.principle}: {a.flips} flip, {a.lost} lost, {a.gained} gained, of {a.judged} it was asked about"
            for a in self.ablation if a.judged
        ]  # fmt: skip
        return told


def conflict_report(constitution: Constitution, table: Table, pairs: Mapping[str, Pair]) -> ConflictReport:
    """Everything of :mod:`trueup.feedback.conflicts` on one table.

    Raises:
        ValueError: a verdict of a principle that is not in force, or outside [0, 1].
    """
    return ConflictReport(
        rows=len(table),
        matrix=tuple(conflict_matrix(constitution, table)),
        queue=tuple(contested_pairs(constitution, table, pairs=pairs)),
        ablation=tuple(ablation(constitution, table, pairs=pairs)),
    )


def queue_of(report: ConflictReport, pairs: Mapping[str, Pair]) -> Sequence[dict[str, Any]]:
    """The queue as lines of a file, without the pairs whose texts are not known."""
    return queue_lines([c for c in report.queue if c.row in pairs], pairs)
