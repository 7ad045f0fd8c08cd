"""Run folders as `trueup train` writes them, made without training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trueup.config import DataConfig, ModelConfig, RunConfig
from trueup.runs.folder import RunFolder, write_json
from trueup.runs.metrics import JsonlWriter

AUDIT = {
    "read": 30, "kept": 28, "dropped": 2, "reasons": {"too_long": 2}, "dropped_rows": [], "truncated": 0,
    "lost_eos": 0, "lengths": {"prompt": {"least": 3, "median": 5.0, "mean": 5.5, "p95": 9.0, "most": 12}},
    "longer_chosen": [0.6, 0.4, 0.77], "trained_share": 0.4, "duplicates": 0, "leaked": [], "desirable": None,
    "example": "user: hi ⟦hello⟧ end",
}  # fmt: skip


def figures(**means: tuple[float, float | None, float | None]) -> dict[str, Any]:
    """``name=(mean, low, high)`` as results.json writes them, of 40 rows."""
    return {
        name.replace("__", "/"): {"mean": m, "low": low, "high": high, "n": 40}
        for name, (m, low, high) in means.items()
    }


def write_run(
    path: Path,
    *,
    method: str = "dpo",
    steps: int = 12,
    metrics: Callable[[int], dict[str, float]] | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    samples: list[dict[str, Any]] | None = None,
    alarms: list[dict[str, Any]] | None = None,
    held_out: int = 40,
    tokens: str = "aa",
    finished: bool = True,
    settings: dict[str, Any] | None = None,
) -> Path:
    """A run folder made with what `trueup train` makes it with."""
    config = RunConfig(
        method=method, model=ModelConfig(path="some/model"), data=DataConfig(path="pairs.jsonl"), **settings or {}
    )
    manifest = {
        "data": {"path": "pairs.jsonl", "rows": 28, "held_out": held_out, "tokens_sha256": tokens},
        "model": {"path": "some/model", "identity": "sha256:11"}, "seed": 0,
    }  # fmt: skip
    with RunFolder.create(path, config.model_dump(mode="json"), manifest) as folder:
        write_json(folder.audit, AUDIT)
        if before is not None or after is not None:
            results = {} if before is None else {"before": before}
            write_json(path / "results.json", results | ({} if after is None else {"after": after}))
        make = metrics or (lambda step: {"loss": 0.7 - 0.01 * step, "rewards/accuracy": 0.5 + 0.01 * step})
        _lines(folder.metrics, [{"step": i, **make(i)} for i in range(1, steps + 1)])
        _lines(folder.timings, [{"step": i, "seconds": 0.5, "tokens_per_second": 100} for i in range(1, steps + 1)])
        _lines(folder.samples, samples or [])
        if alarms is not None:
            _lines(path / "alarms.jsonl", alarms)
        if finished:
            folder.model.mkdir()
    return path


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with JsonlWriter(path) as writer:
        for row in rows:
            writer.append(row)


def policy_metrics(step: int) -> dict[str, float]:
    """What a policy-gradient run logs, with a value that is not finite at step 3."""
    return {
        "loss": math.nan if step == 3 else -0.01 * step, "score": 0.1 * step, "reward": 0.09 * step, "kl": 0.2 * step,
        "kl/k3": 0.21 * step, "entropy": 3 - 0.05 * step, "length": 20 + step, "truncated": 0.5,
        "grad_norm": math.inf if step == 3 else 1.0,
    }  # fmt: skip


def greedy(step: int, row: str, prompt: str, answer: str) -> dict[str, Any]:
    """A line of samples.jsonl before (step 0) or after."""
    return {"step": step, "row": row, "prompt": prompt, "answer": answer, "ended": True}
