"""`trueup report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from trueup.reports.write import Written, write_report

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    runs: Annotated[list[Path], typer.Argument(help="run folders; each becomes a chapter")],
    out: Annotated[
        Path | None, typer.Option(help="folder to make; default: RUN/report, or ./report for several runs")
    ] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option("--eval", help="folder of trueup eval to show as well; may be given again")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="make PNG files as well")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print report.json instead of where it is")] = False,
) -> int:
    """One HTML file that says what a run did: result, data, curves, answers, alarms; the same as JSON and PNG."""
    folder = out or (runs[0] / "report" if len(runs) == 1 else Path("report"))
    tell(write_report(runs, folder, evaluation or (), pictures=pictures), as_json)
    return 0


def tell(written: Written, as_json: bool) -> None:
    """What was made, and what the folders lack."""
    if as_json:
        print(json.dumps(written.record))
        return
    for problem in written.problems:
        print(f"note: {problem}", file=sys.stderr)
    for run in written.record["runs"]:
        print(f"{run['name']}: {run['result']['sentence']}")
    print(f"written: {written.page} ({written.page.stat().st_size / 1e6:.1f} MB), report.json, {len(written.pictures)} "
          "pictures in charts/")  # fmt: skip
