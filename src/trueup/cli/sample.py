"""`trueup sample`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, cast

import typer

from trueup.data.render import Chat
from trueup.errors import ConfigError
from trueup.models.sampling import Sampling, Speed
from trueup.models.wire import Endpoint
from trueup.recipes.answers import Servers, sample_file
from trueup.recipes.build import machine_named

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Teller:
    """Prints how far sampling is, every few seconds."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, done: int, total: int, speed: Speed) -> None:
        """Called after each answer."""
        if time.monotonic() - self.last < 5 and done < total:
            return
        self.last = time.monotonic()
        print(
            f"{done} of {total} answers, {speed.tokens_per_second:.0f} tokens/s, {speed.truncated_share:.1%} truncated",
            file=sys.stderr,
            flush=True,
        )


def sampling_of(**given: object) -> Sampling:
    """Checked settings of sampling.

    Raises:
        ConfigError: one that makes no sense.
    """
    try:
        return Sampling(**given)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(str(error).replace("sampling.", "--").replace("_", "-")) from None


def servers_of(urls: list[str] | None, model: str, key: str | None, concurrency: int) -> Servers | None:
    """The endpoints that serve a model; None: it runs in this process.

    Raises:
        ConfigError: an address that is none, or a key for no server.
    """
    if not urls:
        if key is not None:
            raise ConfigError("--server-key-env: has no effect without --server")
        return None
    return Servers(tuple(Endpoint(url, model, api_key_env=key, concurrency=concurrency) for url in urls))


@app.command()
def command(
    model: Annotated[str, typer.Option(help="folder, GGUF file, hub id, run folder, or bundled:NAME")],
    data: Annotated[str, typer.Option(help="prompts: any file that holds them")],
    out: Annotated[Path, typer.Option(help="file to make: .jsonl, .json, .csv or .parquet")],
    n: Annotated[int, typer.Option(help="answers a prompt")] = 1,
    temperature: Annotated[float, typer.Option(help="logits are divided by it; 0: greedy")] = 1.0,
    top_p: Annotated[float, typer.Option(help="only the likeliest tokens that hold this probability")] = 1.0,
    top_k: Annotated[int, typer.Option(help="only the k likeliest tokens; 0: all")] = 0,
    min_p: Annotated[float, typer.Option(help="only tokens at least this fraction of the likeliest")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="longer answers are truncated")] = 256,
    stop: Annotated[list[str] | None, typer.Option(help="string that ends an answer; may be given again")] = None,
    seed: Annotated[int, typer.Option(help="answer k of a prompt depends on (seed, prompt, k) alone")] = 0,
    limit: Annotated[int | None, typer.Option(help="use the first prompts only")] = None,
    slots: Annotated[int, typer.Option(help="answers in progress at once")] = 64,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32")] = "auto",
    chat: Annotated[str, typer.Option(help="raw prompts: auto, template (a user turn) or plain")] = "auto",
    server: Annotated[
        list[str] | None, typer.Option(help="address of an OpenAI-compatible server that answers; may be given again")
    ] = None,
    server_key_env: Annotated[str | None, typer.Option(help="environment variable that holds the servers' key")] = None,
    server_concurrency: Annotated[int, typer.Option(help="requests at once to each server")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> int:
    """Answer a file of prompts. Interrupted, the same command goes on where it was."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ConfigError(f"--precision: {precision!r} is none of auto, bf16, fp32")
    if chat not in ("auto", "template", "plain"):
        raise ConfigError(f"--chat: {chat!r} is none of auto, template, plain")
    servers = servers_of(server, model, server_key_env, server_concurrency)
    if servers is not None and chat != "auto":
        raise ConfigError("--chat: has no effect with --server, which renders prompts itself")
    sampling = sampling_of(
        temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, max_new_tokens=max_new_tokens,
        stop=tuple(stop or ()), n=n, seed=seed,
    )  # fmt: skip
    machine = machine_named(precision=precision)
    done = sample_file(
        model, data, out, sampling, machine, limit=limit, slots=slots, chat=cast(Chat, chat), servers=servers,
        tell=Teller(),
    )  # fmt: skip
    if as_json:
        print(json.dumps({"out": str(out), "answers": done.answers, "drawn": done.drawn,
                          "tokens_per_second": done.speed.tokens_per_second,
                          "truncated": done.speed.truncated_share}))  # fmt: skip
        return 0
    print(
        f"{out}: {done.answers} answers, {done.drawn} drawn now at {done.speed.tokens_per_second:.0f} tokens/s, "
        f"{done.speed.truncated_share:.1%} of them truncated"
    )
    return 0
