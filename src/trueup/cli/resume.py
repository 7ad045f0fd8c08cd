"""`trueup resume RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli.show import listen, show_result
from trueup.recipes.train import resume
from trueup.runs.folder import read_run
from trueup.settings import validated

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    run: Annotated[Path, typer.Argument(help="run folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Go on with an interrupted run, bit for bit as if it had never stopped."""
    validated(read_run(run)[0], str(run / "config.yaml"))  # one clear line before anything is loaded
    result = resume(run, (listen(),))
    if result.leader:
        show_result(result, as_json)
    return result.exit_code
