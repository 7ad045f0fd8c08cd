"""`trueup compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli.report import tell
from trueup.reports.write import write_comparison

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    runs: Annotated[list[Path], typer.Argument(help="two to eight run folders")],
    out: Annotated[Path, typer.Option(help="folder to make")] = Path("comparison"),
    evaluation: Annotated[
        list[Path] | None, typer.Option("--eval", help="folder of trueup eval to show as well; may be given again")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="make PNG files as well")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print report.json instead of where it is")] = False,
) -> int:
    """Several runs over one another: results with intervals, the same axes, and the settings that differ."""
    tell(write_comparison(runs, out, evaluation or (), pictures=pictures), as_json)
    return 0
