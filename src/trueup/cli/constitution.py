"""`trueup constitution check|show|import|conflicts|settle|diff`."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from trueup.data.read import read_rows
from trueup.data.write import whole_file, write_rows
from trueup.errors import ConfigError, DataError
from trueup.feedback.conflict_report import conflict_report, queue_of, read_verdicts
from trueup.feedback.constitution import Constitution, load_constitution
from trueup.feedback.constitution_check import SIMILAR, check_constitution
from trueup.feedback.constitution_diff import differences
from trueup.feedback.constitution_import import import_principles, to_yaml
from trueup.feedback.constitution_settle import queued_pair, settle
from trueup.feedback.principles import Asked, EdgeCase, Principle, Wording, asked
from trueup.types import Prompt

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help="Check, show, import, settle and compare constitutions."
)
File = Annotated[str, typer.Argument(help="YAML file, or `default` for the bundled constitution")]
AsJson = Annotated[bool, typer.Option("--json", help="print as JSON")]


@app.command()
def check(
    file: File,
    prompts: Annotated[
        str | None, typer.Option(help="file of prompts: which principles apply to none of them?")
    ] = None,
    similar: Annotated[float, typer.Option(help="statements more alike than this are near-duplicates")] = SIMILAR,
    strict: Annotated[bool, typer.Option("--strict", help="warnings fail too")] = False,
    as_json: AsJson = False,
) -> int:
    """Everything doubtful about a constitution. Exit code 2 if it cannot be used or contradicts itself."""
    if not 0 <= similar <= 1:
        raise ConfigError(f"--similar: between 0 and 1 is expected, got {similar}")
    constitution = load_constitution(file)
    found = check_constitution(constitution, None if prompts is None else _asked(prompts), similar=similar)
    counts = {s: sum(f.severity == s for f in found) for s in ("error", "warning", "note")}
    if as_json:
        print(json.dumps({"sha256": constitution.sha256, **{f"{k}s": v for k, v in counts.items()},
                          "findings": [f.to_json() for f in found]}, ensure_ascii=False))  # fmt: skip
    else:
        said = ", ".join(_count(n, s) for s, n in counts.items())
        print("\n".join([_title(constitution), *(f.line() for f in found), said]))
    return 2 if counts["error"] or (strict and counts["warning"]) else 0


def _asked(path: str) -> list[Asked]:
    rows: list[Any] = list(read_rows(path, wanted=Prompt).rows)
    if not rows:
        raise DataError(f"{path}: there is no prompt in it")
    return [asked(row) for row in rows]


@app.command()
def show(
    file: File = "default",
    principle: Annotated[str | None, typer.Option(help="one principle, with all its wordings")] = None,
    as_json: AsJson = False,
) -> int:
    """What a constitution says, in order of priority."""
    constitution = load_constitution(file)
    if principle is not None and principle not in [p.id for p in constitution.principles]:
        raise ConfigError(f"--principle: there is no {principle!r}; there are "
                          f"{', '.join(p.id for p in constitution.principles)}")  # fmt: skip
    if as_json:
        tree = constitution.model_dump(mode="json")
        print(json.dumps({"sha256": constitution.sha256, **tree}, ensure_ascii=False))
    elif principle is not None:
        print("\n".join(_whole(constitution.principle(principle))))
    else:
        print("\n".join(_overview(constitution)))
    return 0


def _title(c: Constitution) -> str:
    return f"{c.name}: {_count(len(c.principles), 'principle')} on {_count(len(c.levels), 'level')}, sha256 {c.sha256}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _overview(c: Constitution) -> list[str]:
    lines = [_title(c)]
    for level in c.levels:
        lines.append(f"\n{level.name} ({level.kind})")
        for p in (p for p in c.principles if p.level == level.name):
            weight = f" (weight {p.weight:g})" if p.weight != 1 else ""
            status = f" [{p.status}]" if p.status != "active" else ""
            lines.append(f"  {p.id}{weight}{status}: {p.statement}")
            lines += [f"    overrides {other}" for other in p.overrides]
            lines += [f"    conflicts with {x.id}: {x.resolution} ({x.why})" for x in p.conflicts_with]
    return [*lines, "\ndefaults: " + ", ".join(f"{k} {v}" for k, v in c.defaults.model_dump(mode="json").items())]


def _whole(p: Principle) -> list[str]:
    kinds: tuple[Wording, ...] = ("critique", "revision", "comparison")
    return [
        f"{p.id}: level {p.level}, weight {p.weight:g}, {p.status}, for {' and '.join(p.stages)}",
        *(f"\n{kind}:\n{p.wording(kind)}" for kind in kinds),
        *(f"\nexemplar:\n  prompt: {e.prompt}\n  bad: {e.bad}\n  critique: {e.critique}\n  good: {e.good}"
          for e in p.exemplars),
    ]  # fmt: skip


@app.command(name="import")
def import_list(
    source: Annotated[Path, typer.Argument(help="released list of principles, or a folder of the CAI paper's files")],
    out: Annotated[Path, typer.Option(help="constitution to write (.yaml)")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file")] = False,
) -> int:
    """A released list of principles as a constitution; its levels and exceptions are for you to add."""
    tree = import_principles(source)
    with whole_file(out, overwrite=overwrite) as draft:
        draft.write_text(to_yaml(tree), encoding="utf-8")
    print(f"wrote {out}: {_title(load_constitution(out))}")
    return 0


@app.command()
def conflicts(
    file: File,
    verdicts: Annotated[Path, typer.Argument(help="verdicts of every principle, a line a pair of answers")],
    queue: Annotated[Path | None, typer.Option(help="file to write: contested pairs, for `settle`")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the queue")] = False,
    as_json: AsJson = False,
) -> int:
    """Principles that disagree, pairs for a person to settle, what each principle changes. Exit code 1 on an alarm."""
    constitution = load_constitution(file)
    table, pairs = read_verdicts(verdicts, constitution)
    report = conflict_report(constitution, table, pairs)
    if queue is not None:
        write_rows(queue, queue_of(report, pairs), overwrite=overwrite)
    print(json.dumps(report.to_json(), ensure_ascii=False) if as_json else "\n".join(report.lines()))
    return 1 if report.alarms else 0


@app.command(name="settle")
def settle_case(
    file: Annotated[Path, typer.Argument(help="YAML file to add to")],
    principle: Annotated[str, typer.Option(help="id of the principle that decides the case")],
    situation: Annotated[str, typer.Option(help="what the case is, in words")],
    guidance: Annotated[str, typer.Option(help="what holds in it")],
    author: Annotated[str, typer.Option(help="who settles it")],
    date: Annotated[str | None, typer.Option(help="YYYY-MM-DD; default today (UTC)")] = None,
    queue: Annotated[Path | None, typer.Option(help="file of contested pairs that --row is taken from")] = None,
    row: Annotated[str | None, typer.Option(help="contested row that this settles")] = None,
    prefers: Annotated[str | None, typer.Option(help="which of the row's answers: first, second or neither")] = None,
    as_json: AsJson = False,
) -> int:
    """Write a settled case into a constitution, with author and date; comments stay. A row's label is settled by it."""
    if len({queue is None, row is None, prefers is None}) != 1:
        raise ConfigError("--queue, --row and --prefers go together: a settled row says which answer it prefers")
    pair = None if queue is None else queued_pair(queue, str(row))
    when = date or datetime.datetime.now(datetime.UTC).date().isoformat()
    fields = {"situation": situation, "guidance": guidance, "author": author, "date": when, "pair": pair,
              "prefers": prefers}  # fmt: skip
    try:
        case = EdgeCase.model_validate(fields)
    except ValidationError as errors:
        first = errors.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(f"--{name}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}") from None
    done = settle(file, principle, case)
    if as_json:
        print(json.dumps({"principle": principle, "case": case.model_dump(mode="json", exclude_none=True),
                          "before": done.before, "after": done.after}, ensure_ascii=False))  # fmt: skip
    else:
        print(f"settled under {principle} by {author}, {when}\nsha256 before {done.before}\nsha256 after  {done.after}")
    return 0


@app.command()
def diff(
    before: File,
    after: Annotated[str, typer.Argument(help="the other, likewise")],
    as_json: AsJson = False,
) -> int:
    """What differs between two constitutions. Exit code 0 if nothing does, else 1."""
    a, b = load_constitution(before), load_constitution(after)
    lines = differences(a, b)
    if as_json:
        print(json.dumps({"before": a.sha256, "after": b.sha256, "differences": lines}, ensure_ascii=False))
    else:
        print("\n".join([f"before {a.sha256}\nafter  {b.sha256}", *(lines or ["no difference"])]))
    return 1 if lines else 0
