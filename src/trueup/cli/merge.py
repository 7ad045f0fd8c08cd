"""`trueup merge RUN_OR_ADAPTER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trueup.models.merge import merge

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    source: Annotated[str, typer.Argument(help="run folder or adapter folder")],
    out: Annotated[Path, typer.Option(help="folder of the full model to make")],
) -> int:
    """Merge a LoRA adapter into a full model, and check that both answer alike."""
    print(merge(source, out))
    return 0
