"""`trueup demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli.sample import Teller
from trueup.cli.show import listen, show_result
from trueup.recipes.demo import DemoResult, demo, fresh_folder
from trueup.runs.console import show_table, show_texts

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    out: Annotated[Path | None, typer.Option(help="folder to make; default: runs/demo-1, demo-2 ...")] = None,
) -> int:
    """Answers of the bundled chat model -> pairs by a rule -> DPO -> held-out figures before and after."""
    folder = fresh_folder(Path("runs")) if out is None else out
    result = demo(folder, (listen(),), Teller())
    print("\n".join(result.pairs.lines()))
    show_result(result.training, as_json=False, samples=False)
    if result.training.finished:
        _show(result)
        print(f"everything is in {folder}: pairs.jsonl, run/ (model, figures, logs), results.json")
    return result.training.exit_code


def _show(result: DemoResult) -> None:
    """Held-out prompts before and after, and three of the answers."""
    told = result.to_json()["held_out_prompts"]
    cells = [("score by the rule", *(_interval(told[f"{side}_score"]) for side in ("before", "after")))]
    cells += [
        (name, *(f"{told[f'{side}_{key}']:.3g}" for side in ("before", "after")))
        for name, key in (("tokens", "tokens"), ("distinct-2", "distinct_2"))
    ]
    show_table(f"answers to {told['n']} held-out prompts, mean [95 % interval]", ("", "before", "after"), cells)
    print(
        f"score, prompt by prompt: {_interval(told['difference'], sign=True)}; better on {told['better']}, worse on "
        f"{told['worse']}, sign test p = {told['p_value']:.2g}"
    )
    for number in range(3):
        show_texts(
            f"held-out prompt {number + 1}",
            {"before": result.before.texts[number], "after": result.after.texts[number]},
        )


def _interval(value: list[float], sign: bool = False) -> str:
    mean, low, high = value
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" if sign else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
