"""What training looks like on a terminal: a line or a bar while it runs, a table and samples when it is done."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from trueup.recipes.train import TrainResult
from trueup.runs.console import figure, show_table, show_texts
from trueup.runs.metrics import read_jsonl
from trueup.types import Step

_SHOWN = (
    "loss",
    "rewards/accuracy",
    "rewards/margin",
    "accuracy",
    "margin",
    "score",
    "kl",
    "entropy",
    "length",
    "grad_norm",
)
SECONDS_BETWEEN_LINES = 5.0


def listen() -> Callable[[Step], None]:
    """A listener that prints a line a step on a terminal, and at most one every few seconds elsewhere."""
    last = 0.0
    terminal = sys.stderr.isatty()

    def tell(step: Step) -> None:
        nonlocal last
        now = time.monotonic()
        if not terminal and now - last < SECONDS_BETWEEN_LINES and step.index > 1 and not step.skipped:
            return
        last = now
        words = [f"{name} {figure(step.metrics[name])}" for name in _SHOWN if name in step.metrics]
        words += [f"held-out {k[5:]} {figure(v)}" for k, v in step.metrics.items()
                  if k.startswith("eval/") and k[5:] in _SHOWN[:4]]  # fmt: skip
        note = "  NOT FINITE: no weight was changed" if step.skipped else ""
        print(f"step {step.index}: {', '.join(words)}{note}", file=sys.stderr, flush=True)

    return tell


def show_result(result: TrainResult, as_json: bool, samples: bool = True) -> None:
    """The table before/after with intervals, the samples, and where everything is."""
    if as_json:
        record = {"folder": str(result.folder), "steps": result.steps, "finished": result.finished, **result.results}
        print(json.dumps(record))
        return
    if not result.finished:
        print(f"stopped at step {result.steps} and saved; go on with: trueup resume {result.folder}")
        return
    before, after = result.results.get("before", {}), result.results.get("after", {})
    names = [
        n
        for n in (
            "loss",
            "rewards/accuracy",
            "rewards/margin",
            "accuracy",
            "margin",
            "logratio",
            "score",
            "length",
            "truncated",
        )
        if n in after
    ]
    if names:
        rows = [(n, _cell(before.get(n)), _cell(after[n])) for n in names]
        show_table(f"held-out rows, n = {after[names[0]]['n']}, mean [95 % interval]", ("", "before", "after"), rows)
    if table := result.results.get("rounds"):
        heads = ["round", *(name for name in table[0] if name != "round")]
        show_table(
            "rounds, on held-out prompts", tuple(heads), [tuple(figure(line[h]) for h in heads) for line in table]
        )
    if samples:
        _show_samples(result)
    print(f"run folder: {result.folder}   (the model is in model/, the figures in results.json)")


def _cell(value: dict[str, float | None] | None) -> str:
    if value is not None and value["low"] is None:
        return f"{value['mean']:.3f} (one prompt: no interval)"
    return "-" if value is None else f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _show_samples(result: TrainResult) -> None:
    path = result.folder / "samples.jsonl"
    records = list(read_jsonl(path)) if path.exists() else []
    first = [r for r in records if r["step"] == 0]
    last = {r["row"]: r for r in records if r["step"] == result.steps}
    for record in first:
        if record["row"] in last:
            texts = {
                "prompt": _question(record["prompt"]),
                "before": record["answer"],
                "after": last[record["row"]]["answer"],
            }
            show_texts(f"sample {record['row']}", texts)


def _question(prompt: str) -> str:
    """The end of a rendered prompt, which is where the question stands."""
    return prompt if len(prompt) <= 400 else "..." + prompt[-400:]
