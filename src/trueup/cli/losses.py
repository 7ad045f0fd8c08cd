"""`trueup losses [NAME]`."""

from __future__ import annotations

import difflib
import json
import math
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from trueup.errors import ConfigError
from trueup.losses import POLICY, PREFERENCE, REWARD, SUPERVISED, UNPAIRED, Loss
from trueup.tensors import Actions, Labels, Likelihoods, Pairs, Scores

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
ALL: dict[str, Loss] = {**SUPERVISED, **REWARD, **PREFERENCE, **UNPAIRED, **POLICY}
COLUMNS = ("name", "rows", "reference", "title", "source")


def _row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# what the worked example of each kind of loss is computed from
_EXAMPLES: dict[type, tuple[str, Any]] = {
    Pairs: (
        "πc = −12, πr = −15, ρc = −13, ρr = −14.5, |yc| = 6, |yr| = 10",
        Pairs(policy_chosen=_row(-12), policy_rejected=_row(-15), reference_chosen=_row(-13),
              reference_rejected=_row(-14.5), chosen_length=torch.tensor([6]), rejected_length=torch.tensor([10])),
    ),
    Labels: (
        "a good row with r = 1 and a bad one with r = −0.5, KL 0.3",
        Labels(policy=_row(1, -0.5), reference=_row(0, 0), desirable=torch.tensor([True, False]),
               kl=torch.tensor(0.3, dtype=torch.float64)),
    ),
    Scores: ("scores 1.2 (chosen) and 0.5 (rejected)", Scores(chosen=_row(1.2), rejected=_row(0.5))),
    Actions: (
        "two tokens with log π = −1, ratio 1.5, advantages 2 and −2",
        Actions(policy=_row(-1, -1), old=_row(-1, -1) - math.log(1.5), advantage=_row(2, -2)),
    ),
    Likelihoods: ("log-probability −6.5 over 3 tokens", Likelihoods(policy=_row(-6.5), length=torch.tensor([3]))),
}  # fmt: skip


def _facts(name: str, loss: Loss) -> dict[str, Any]:
    given, record = _EXAMPLES[loss.eats]
    return {
        "name": name,
        "title": loss.title,
        "eats": loss.eats.__name__,
        "reference": loss.reference,
        "equation": loss.equation,
        "arguments": loss.arguments,
        "options": sorted(loss.options),
        "source": loss.source,
        "differences": loss.differences,
        "example": {"given": given, "value": loss.fn(record).tolist()},
    }


def _cells(name: str, loss: Loss) -> tuple[str, ...]:
    return (name, loss.eats.__name__, "needed" if loss.reference else "-", loss.title, loss.source)


def list_losses(as_json: bool = False, console: Console | None = None) -> None:
    """Prints every loss: a table on a terminal, a line each elsewhere.

    Args:
        as_json: one JSON list instead, with everything :func:`show_loss` tells.
        console: where to; standard output if None.
    """
    if as_json:
        print(json.dumps([_facts(n, loss) for n, loss in ALL.items()], ensure_ascii=False))
        return
    out = console or Console()
    rows = [_cells(name, loss) for name, loss in ALL.items()]
    if out.is_terminal:
        table = Table(*COLUMNS, box=box.SIMPLE, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        out.print(table, markup=False)
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)


def show_loss(name: str, as_json: bool = False) -> None:
    """Prints equation, arguments, source and a worked example, computed now.

    Args:
        name: a registered loss.
        as_json: as one JSON object.

    Raises:
        ConfigError: no such loss.
    """
    if name not in ALL:
        close = difflib.get_close_matches(name, ALL, 1, 0.4)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(ALL)}"
        raise ConfigError(f"{name!r} is no loss ({hint})")
    facts = _facts(name, ALL[name])
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    arguments = ", ".join(f"{k} = {v}" for k, v in facts["arguments"].items()) or "none"
    values = ", ".join(f"{v:.12f}" for v in facts["example"]["value"])
    print(f"{name}: {facts['title']}\n\n  {facts['equation']}\n")
    print(f"rows        {facts['eats']}\nreference   {'needed' if facts['reference'] else 'none'}")
    print(f"arguments   {arguments}\noptions     {', '.join(facts['options']) or 'none'}")
    print(f"source      {facts['source']}")
    if facts["differences"]:
        print(f"note        {facts['differences']}")
    print(f"example     {facts['example']['given']}  ->  {values}")


@app.command()
def command(
    name: Annotated[str | None, typer.Argument(help="a loss; without one all are listed")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> int:
    """List the losses, or explain one."""
    if name is None:
        list_losses(as_json)
    else:
        show_loss(name, as_json)
    return 0
