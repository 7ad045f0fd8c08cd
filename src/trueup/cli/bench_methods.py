"""`trueup bench-methods`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trueup.cli.eval import machine_of
from trueup.cli.sample import Teller
from trueup.errors import ConfigError
from trueup.recipes.bench_methods import DEFAULT, BenchTask, bench
from trueup.recipes.bench_table import COST, FAILED, OUTCOME, budget, cost_rows, outcome_rows, scorer_title, verdicts
from trueup.recipes.demo import MARGIN, MODEL, NEW_TOKENS, RULE
from trueup.recipes.evaluate_judges import scorer_spec
from trueup.runs.console import show_table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    out: Annotated[Path, typer.Option(help="folder to make; the same command goes on with one that was interrupted")],
    model: Annotated[str, typer.Option(help="where every method starts")] = MODEL,
    methods: Annotated[str, typer.Option(help="with commas between; words of trueup train")] = ",".join(DEFAULT),
    seeds: Annotated[str, typer.Option(help="with commas between; every method is trained with each")] = "0,1,2",
    data: Annotated[str | None, typer.Option(help="prompts; default: those of trueup demo")] = None,
    held_out: Annotated[
        str | None, typer.Option(help="prompts of the figures; default: a quarter of --data, or the demo's")
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="who scores: PATH, rule:NAME, module:function or YAML; default: the demo's rule")
    ] = None,
    gold: Annotated[str | None, typer.Option(help="a second scorer, that nothing is trained on")] = None,
    prompts: Annotated[int, typer.Option(help="training prompts at most")] = 64,
    held_out_prompts: Annotated[int, typer.Option(help="held-out prompts at most")] = 40,
    n: Annotated[int, typer.Option(help="answers to each training prompt")] = 4,
    held_out_n: Annotated[int, typer.Option(help="answers to each held-out prompt")] = 2,
    max_new_tokens: Annotated[int, typer.Option(help="longer answers are truncated")] = NEW_TOKENS,
    min_margin: Annotated[float, typer.Option(help="scores of a pair differ by more than this")] = MARGIN,
    passes: Annotated[int, typer.Option(help="over the data")] = 2,
    lora_rank: Annotated[int, typer.Option(help="of the adapters; 0: all weights are trained")] = 16,
    lr: Annotated[float | None, typer.Option(help="peak learning rate of all; default: that of each method")] = None,
    precision: Annotated[str, typer.Option(help="of training: auto, bf16 or fp32")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print results.json instead of tables")] = False,
) -> int:
    """SFT, DPO, KTO, PPO and others on the same prompts, budget and seeds: what each took, and what came of it."""
    machine_of(precision)
    if (data is None) != (reward is None) and data is not None:
        raise ConfigError("--data: needs --reward: the demo's rule is about the demo's prompts")
    task = BenchTask(
        model=model, methods=_words(methods), seeds=_numbers(seeds), data=data, held_out=held_out,
        reward=RULE if reward is None else scorer_spec(reward, "--reward"),
        gold=None if gold is None else scorer_spec(gold, "--gold"),
        prompts=prompts, held_out_prompts=held_out_prompts, n=n, held_out_n=held_out_n, max_new_tokens=max_new_tokens,
        min_margin=min_margin, passes=passes, lora_rank=lora_rank, lr=lr, precision=precision,
    )  # fmt: skip
    report = bench(task, out, say=_say, tell=Teller())
    if as_json:
        print(json.dumps(report, ensure_ascii=False, allow_nan=False))
    else:
        _show(report, out)
    return 1 if report["failed"] else 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise ConfigError(f"--seeds: whole numbers with commas between are expected, got {text!r}") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(report: dict[str, Any], out: Path) -> None:
    """Tables and verdicts."""
    print(budget(report))
    for scorer in reversed(report["scorers"]):
        show_table(scorer_title(report, scorer), OUTCOME, outcome_rows(report, scorer))
    costs = list(cost_rows(report))
    # two columns are words, which a narrow terminal would break in pieces: they stand below
    show_table("what it took", (COST[0], *COST[3:]), [(row[0], *row[3:]) for row in costs])
    print("\n".join(f"{name} needs {data}; held: {models}" for name, data, models, *_ in costs if data != FAILED))
    print("\n".join(verdicts(report)))
    print(f"everything is in {out}: results.json, table.md, score.png, score-kl.png, cost.png, and a folder a run")
