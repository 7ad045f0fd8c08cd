"""What an evaluation looks like on a terminal: figures, comparisons, ratings, judges, and what to beware of."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from rich.console import Console

from trueup.evals.figure import Figure
from trueup.recipes.evaluate import Evaluation, Subject
from trueup.runs.console import safe, show_table

WIDE = 150  # columns where standard output is no terminal


def show_evaluation(found: Evaluation) -> None:
    """Prints everything that a person needs to judge the result."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    _figures(found.subjects, console)
    if found.contrasts:
        rows = [
            (c.measure, f"{c.first} : {c.second}", _value(c.figure), _bounds(c.figure), str(c.figure.n),
             "-" if c.p_holm is None else f"{c.p_holm:.2g}", c.verdict)
            for c in found.contrasts
        ]  # fmt: skip
        heads = ("comparison", "of", "value", "95 % interval", "n", "p (Holm)", "verdict")
        show_table("comparisons on the same prompts", heads, rows, console=console)
    if found.ratings:
        rated = [(f.name, _value(f), _bounds(f), str(f.n), str(f.clusters)) for f in found.ratings]
        show_table("Bradley-Terry ratings, Elo points", ("", "rating", "95 % interval", "n", "prompts"), rated,
                   console=console)  # fmt: skip
    for who, summary in found.judges.items():
        print(safe(f"judge {who}"))
        print("\n".join(f"  {safe(line)}" for line in summary.lines() if not line.startswith("warning: ")))
    for subject in found.subjects:
        for line in subject.left_out:
            print(safe(f"left out for {subject.name}: {line}"))
    for line in _warnings(found):
        print(safe(f"warning: {line}"))
    print(safe(found.headline))


def _figures(subjects: Sequence[Subject], console: Console) -> None:
    """One row a figure and subject, so that subjects stand under each other."""
    names = list(dict.fromkeys(f.name for s in subjects for f in s.figures))
    rows = []
    for name in names:
        for subject in subjects:
            for f in (f for f in subject.figures if f.name == name):
                units = str(f.n) if f.n == f.clusters else f"{f.n} in {f.clusters}"
                could = "-" if math.isnan(f.smallest_difference) else f"{f.smallest_difference:.2g}"
                rows.append((name, subject.name, _value(f), _bounds(f), units, could, f.note))
    heads = ("figure", "of", "value", "95 % interval", "n", "could show", "note")
    show_table("figures", heads, rows, console=console)


def _warnings(found: Evaluation) -> list[str]:
    own = [f"{s.name}: {line}" for s in found.subjects for line in s.warnings]
    return list(dict.fromkeys([*own, *found.warnings]))


def _value(f: Figure) -> str:
    return str(f).split(" ", 1)[0]


def _bounds(f: Figure) -> str:
    return "unknown" if math.isnan(f.low) else str(f).split("[", 1)[1].split("]", 1)[0]
