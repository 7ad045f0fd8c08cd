"""`trueup pairs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from trueup.cli.sample import Teller, sampling_of, servers_of
from trueup.data.pairing import CHOOSERS, Pairing
from trueup.errors import ConfigError
from trueup.recipes.build import machine_named
from trueup.recipes.judges import open_scoring
from trueup.recipes.pairs import Export, Source, make_pairs
from trueup.settings import read_yaml

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    model: Annotated[list[str], typer.Option(help="who answers; may be given again for several models")],
    data: Annotated[str, typer.Option(help="prompts: any file that holds them")],
    out: Annotated[Path, typer.Option(help="file to make: .jsonl, .json, .csv or .parquet")],
    reward: Annotated[
        str,
        typer.Option(help="who scores: PATH, rule:NAME, module:function, or a YAML mapping; {judge: MODEL} is a judge"),
    ],
    n: Annotated[int, typer.Option(help="answers a prompt, of each model and temperature")] = 4,
    temperature: Annotated[list[float] | None, typer.Option(help="may be given again; default 1")] = None,
    top_p: Annotated[float, typer.Option(help="only the likeliest tokens that hold this probability")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="longer answers are truncated")] = 256,
    choose: Annotated[str, typer.Option(help=", ".join(CHOOSERS))] = "best-worst",
    min_margin: Annotated[float, typer.Option(help="scores of a pair differ by more than this; 0 drops ties")] = 0.0,
    max_similarity: Annotated[float, typer.Option(help="answers more alike than this are near-duplicates")] = 0.9,
    cap: Annotated[int, typer.Option(help="pairs a prompt at most")] = 1,
    to: Annotated[str, typer.Option(help="preference, soft, or unpaired")] = "preference",
    soft_scale: Annotated[float, typer.Option(help="soft: preference = sigmoid(score difference / this)")] = 1.0,
    seed: Annotated[int, typer.Option(help="of answers and random choices")] = 0,
    limit: Annotated[int | None, typer.Option(help="use the first prompts only")] = None,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32")] = "auto",
    server: Annotated[
        list[str] | None, typer.Option(help="address of an OpenAI-compatible server that answers; may be given again")
    ] = None,
    server_key_env: Annotated[str | None, typer.Option(help="environment variable that holds the servers' key")] = None,
    server_concurrency: Annotated[int, typer.Option(help="requests at once to each server")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> int:
    """Make preference data: sample, score, pair. Interrupted, the same command goes on where it was."""
    for name, value, known in (("--choose", choose, list(CHOOSERS)), ("--to", to, ["preference", "soft", "unpaired"]),
                               ("--precision", precision, ["auto", "bf16", "fp32"])):  # fmt: skip
        if value not in known:
            raise ConfigError(f"{name}: {value!r} is none of {', '.join(known)}")
    if cap < 1 or soft_scale <= 0 or min_margin < 0 or not 0 <= max_similarity <= 1:
        raise ConfigError("--cap is at least 1, --soft-scale above 0, --min-margin at least 0, --max-similarity 0 to 1")
    machine = machine_named(precision=precision)
    sources = [
        Source(
            m,
            sampling_of(temperature=t, top_p=top_p, max_new_tokens=max_new_tokens, n=n, seed=seed),
            servers_of(server, m, server_key_env, server_concurrency),
        )
        for m in model
        for t in temperature or [1.0]
    ]
    spec: Any = read_yaml(reward, "--reward") if reward.lstrip().startswith("{") else reward
    calls = out.with_name(f"{out.name}.calls.part")
    scorer = open_scoring(spec, machine, cache=calls)
    pairing = Pairing(how=choose, min_margin=min_margin, max_similarity=max_similarity, cap=cap, seed=seed)
    report = make_pairs(
        sources, data, out, scorer, pairing, machine, export=cast(Export, to), soft_scale=soft_scale, limit=limit,
        tell=Teller(),
    )  # fmt: skip
    calls.unlink(missing_ok=True)
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        print("\n".join([*report.lines(), f"written: {out}"]))
    return 0
