"""`trueup train METHOD`."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from trueup.cli.show import listen, show_result
from trueup.config import RunConfig
from trueup.errors import ConfigError
from trueup.losses import PREFERENCE
from trueup.recipes.estimate import estimate
from trueup.recipes.guard import check_alarms
from trueup.recipes.train import audit, method_of, train
from trueup.settings import check_effective, dump_config, load_config
from trueup.train.methods import METHODS, find_method, words

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def config_from(
    method: str, model: str | None, data: str | None, config: Path | None, overrides: list[str]
) -> RunConfig:
    """The checked settings of a command line.

    Raises:
        ConfigError: anything unknown, contradictory or without effect.
    """
    if (known := find_method(method)) is None:
        close = difflib.get_close_matches(method, words(), 1, 0.4)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(
            f"{method!r} is no method{hint}; there are {', '.join(METHODS)}, and online-LOSS, iterative-LOSS for every "
            "pairwise loss"
        )
    settings = load_config(config, overrides, {"method": method, "model.path": model, "data.path": data})
    check_effective(settings, known, {name: loss.arguments for name, loss in PREFERENCE.items()})
    check_alarms(settings)
    return settings


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def command(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="sft, reward, kto, dpo, orpo ... (trueup losses lists them)")],
    model: Annotated[str | None, typer.Option(help="folder, GGUF file, hub id, run folder, or bundled:NAME")] = None,
    data: Annotated[str | None, typer.Option(help="file, datasets folder or hub id")] = None,
    out: Annotated[Path | None, typer.Option(help="run folder to make")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; options are stronger")] = None,
    on_alarm: Annotated[
        str | None, typer.Option("--on-alarm", help="what an alarm does: warn, raise_kl, lower_lr, stop, rollback")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print settings, audit and estimate; write nothing")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Train a model. Further settings: --train.lr 1e-6 --loss.beta 0.1 --lora.rank 16 ... (docs/settings.md)."""
    words = [*context.args, *(["--on_alarm", on_alarm] if on_alarm is not None else [])]
    settings = config_from(method, model, data, config, words)
    if dry_run:
        return _dry_run(settings, as_json)
    if out is None:
        raise ConfigError("--out: missing; name the run folder to make")
    result = train(settings, out, (listen(),))
    if result.leader:
        show_result(result, as_json)
    return result.exit_code


def _dry_run(settings: RunConfig, as_json: bool) -> int:
    prepared = audit(settings)
    guess = estimate(settings, method_of(settings), prepared.train)
    if as_json:
        figures: dict[str, Any] = {"config": settings.model_dump(mode="json"), "audit": prepared.audit.to_json(),
                                   "estimate": guess.to_json()}  # fmt: skip
        print(json.dumps(figures, ensure_ascii=False, default=str))
        return 0
    print(dump_config(settings))
    print("\n".join([*prepared.audit.lines(), "", *guess.lines()]))
    return 0
