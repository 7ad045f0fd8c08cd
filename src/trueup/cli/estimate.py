"""`trueup estimate METHOD`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from trueup.cli.train import config_from
from trueup.errors import ConfigError
from trueup.recipes.estimate import estimate
from trueup.recipes.survey import assumed
from trueup.recipes.train import audit, method_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

NO_DATA = "(none)"


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def command(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="as for trueup train")],
    model: Annotated[str | None, typer.Option(help="as for trueup train; a folder with config.json is enough")] = None,
    data: Annotated[str | None, typer.Option(help="as for trueup train; without it rows are assumed")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; options are stronger")] = None,
    rows: Annotated[int | None, typer.Option(help="without --data: rows to assume; default 1000")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="without --data: tokens of a prompt; default 256")] = None,
    answer_tokens: Annotated[int | None, typer.Option(help="without --data: tokens of an answer; default 256")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> int:
    """Memory, time and disk of a run, before anything is loaded. Further settings as for trueup train."""
    settings = config_from(method, model, data or (None if config else NO_DATA), config, list(context.args))
    given = [f"--{n}" for n, v in (("rows", rows), ("prompt-tokens", prompt_tokens), ("answer-tokens", answer_tokens))
             if v is not None]  # fmt: skip
    if settings.data.path != NO_DATA:
        if given:
            raise ConfigError(f"{given[0]}: has no effect with data, whose rows are counted")
        tokens = audit(settings).train
    else:
        if min(x for x in (rows, prompt_tokens, answer_tokens, 1) if x is not None) < 1:
            raise ConfigError(f"{', '.join(given)}: at least 1")
        tokens = assumed(method_of(settings), rows or 1000, prompt_tokens or 256, answer_tokens or 256)
    guess = estimate(settings, method_of(settings), tokens)
    print(json.dumps(guess.to_json(), ensure_ascii=False) if as_json else "\n".join(guess.lines()))
    return 0
