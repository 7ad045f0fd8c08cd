"""`trueup chat MODEL_OR_RUN`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from trueup.models.chat import Chat
from trueup.models.load import load_causal_lm, load_tokenizer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    model: Annotated[str, typer.Argument(help="folder, run folder, GGUF file, hub id or bundled:NAME")],
    prompt: Annotated[str | None, typer.Option(help="answer this and leave")] = None,
    system: Annotated[str | None, typer.Option(help="system turn")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: the likeliest token")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="of the drawing")] = 0,
) -> int:
    """Talk to a model. An empty line or Ctrl-D ends the conversation."""
    chat = Chat(load_causal_lm(model), load_tokenizer(model))
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    if prompt is not None:
        _answer(chat, [*turns, {"role": "user", "content": prompt}], options)
        return 0
    while question := _ask():
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": _answer(chat, turns, options)})
    return 0


def _ask() -> str:
    try:
        return input("you: " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def _answer(chat: Chat, turns: list[dict[str, Any]], options: dict[str, Any]) -> str:
    pieces = []
    for piece in chat.reply(turns, **options):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)
