"""`trueup demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli.show import listen, show_result
from trueup.recipes.demo import demo, demo_config, fresh_folder

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    out: Annotated[Path | None, typer.Option(help="run folder to make; default: runs/demo-1, demo-2 ...")] = None,
) -> int:
    """DPO of the bundled chat model on the bundled preference pairs, with held-out figures before and after."""
    folder = fresh_folder(Path("runs")) if out is None else out
    result = demo(folder, (listen(demo_config()),))
    show_result(result, as_json=False)
    return result.exit_code
