"""`trueup data check|convert|show|formats`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from trueup.cli.train import config_from
from trueup.config import RunConfig
from trueup.data.audit import marked
from trueup.data.convert import convert
from trueup.data.formats import FORMATS
from trueup.data.read import ReadReport, read_rows
from trueup.data.render import PairTokens
from trueup.data.write import write_rows
from trueup.errors import DataError
from trueup.models.load import load_tokenizer
from trueup.recipes.prepare import prepare, renderer_for
from trueup.recipes.train import method_of
from trueup.settings import nearest
from trueup.types import Comparison

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Check, convert and show preference data.")
_EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}
DEFAULT_MODEL = "bundled:smollm2-135m-instruct"


def told(report: ReadReport) -> list[str]:
    """What the reader did, for a person."""
    lines = [f"read {report.read} rows as {report.format!r}: {report.kept} kept, {report.rejected} rejected"]
    lines += [f"  {problem}" for problem in report.problems[:5]]
    if len(report.problems) > 5:
        lines.append(f"  ... and {len(report.problems) - 5} more")
    if report.unused:
        lines.append(f"columns not used: {', '.join(report.unused)}")
    if report.quarantine is not None:
        lines.append(f"rejected rows are in {report.quarantine}; mend them there and read that file")
    return lines


@app.command(context_settings=_EXTRA)
def check(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="file, datasets folder or hub id")],
    model: Annotated[str, typer.Option(help="whose tokenizer and template are used")] = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="what the rows are for")] = "dpo",
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> int:
    """The preflight audit: what would happen to every row. --data.max_length and the like work as in training."""
    settings: RunConfig = config_from(method, model, file, None, list(context.args))
    prepared = prepare(settings, method_of(settings))
    if as_json:
        print(json.dumps(prepared.audit.to_json(), ensure_ascii=False))
        return 0
    print("\n".join([*told(prepared.report), f"held out: {len(prepared.held_out)} rows", *prepared.audit.lines()]))
    return 0


@app.command(name="convert")
def convert_file(
    source: Annotated[str, typer.Argument(help="file to read")],
    target: Annotated[Path, typer.Argument(help="file to write: .jsonl .json .csv .parquet, also .gz .zst")],
    to: Annotated[str, typer.Option(help="format to write (trueup data formats lists them)")],
    format: Annotated[str, typer.Option("--format", help="format of the source")] = "auto",
    bad_rows: Annotated[str, typer.Option(help="error, skip or quarantine")] = "error",
    wrap: Annotated[bool, typer.Option("--wrap", help="make turns of plain text first")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the target")] = False,
) -> int:
    """Write rows in another format; what a format cannot hold is an error."""
    if bad_rows not in ("error", "skip", "quarantine"):
        raise DataError(f"--bad-rows: error, skip or quarantine is expected, got {bad_rows!r}")
    if to not in FORMATS:
        raise DataError(f"--to: {to!r} is no format{nearest(to, list(FORMATS))}; trueup data formats lists them")
    report = read_rows(source, format=format, bad_rows=bad_rows, wanted=FORMATS[to].makes)  # type: ignore[arg-type]
    count = write_rows(target, convert(report.rows, to, wrap=wrap), overwrite=overwrite)
    print("\n".join([*told(report), f"wrote {count} rows as {to!r} to {target}"]))
    return 0


@app.command(context_settings=_EXTRA)
def show(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="file, datasets folder or hub id")],
    model: Annotated[str, typer.Option(help="whose tokenizer and template are used")] = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="what the rows are for")] = "dpo",
    row: Annotated[int, typer.Option(help="which row, from 1")] = 1,
) -> int:
    """One row as the model sees it: trained tokens between ⟦ and ⟧."""
    settings = config_from(method, model, file, None, list(context.args))
    rows: Sequence = read_rows(file, format=settings.data.format, columns=settings.data.columns,
                               bad_rows=settings.data.bad_rows, wanted=method_of(settings).row).rows  # fmt: skip
    if not 1 <= row <= len(rows):
        raise DataError(f"--row: {file} has {len(rows)} usable rows; {row} is not one of them")
    renderer = renderer_for(settings, load_tokenizer(model))
    one = rows[row - 1]
    tokens = renderer.pair(one) if isinstance(one, Comparison) else renderer.completion(one)  # type: ignore[arg-type]  # the reader gave what the method eats
    sides = (
        {"chosen": tokens.chosen, "rejected": tokens.rejected} if isinstance(tokens, PairTokens) else {"row": tokens}
    )
    for name, side in sides.items():
        print(
            f"── {one.origin}: {name}, {len(side.ids)} tokens, {int(side.mask.sum())} trained\n"
            f"{marked(side, renderer)}\n"
        )
    return 0


@app.command()
def formats() -> int:
    """The formats that are recognised."""
    width = max(map(len, FORMATS))
    for name, entry in FORMATS.items():
        print(f"{name:<{width}}  {entry.makes.__name__:<11} {entry.title}")
    return 0
