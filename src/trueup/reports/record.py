"""The same as the page for programs: ``report.json``, strict JSON without markup; unknown numbers are null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from trueup.reports.comparison import named_apart, same_rows
from trueup.reports.evaluation import EvaluationView
from trueup.reports.names import name_of
from trueup.reports.read import Measured, RunView, at, real
from trueup.reports.result import headline
from trueup.reports.settings_table import differing

SCHEMA = 1


def record_of(kind: str, views: Sequence[RunView], evaluations: Sequence[Sequence[EvaluationView]]) -> dict[str, Any]:
    """What was found in the folders.

    Args:
        kind: ``report`` or ``comparison``.
        views: the runs.
        evaluations: of each run for a report; for a comparison one list.
    """
    whole: dict[str, Any] = {"schema": SCHEMA, "kind": kind, "trueup": version("trueup")}
    if kind == "comparison":
        named = named_apart(views)
        table = [(d.name, [v for v, _ in d.values]) for d in differing([v.config for v in views])]
        return {
            **whole,
            "same_held_out_rows": same_rows(views),
            "differing_settings": dict(table),
            "evaluations": [_evaluation(e) for e in evaluations[0]],
            "runs": [_run(v) for v in named],
        }
    runs = [
        {**_run(v), "evaluations": [_evaluation(e) for e in own]} for v, own in zip(views, evaluations, strict=True)
    ]
    return {**whole, "runs": runs}


def _run(view: RunView) -> dict[str, Any]:
    found = headline(view)
    return {
        "name": view.name,
        "path": str(view.path),
        "method": view.method,
        "model": view.model,
        "model_identity": at(view.manifest, "model", "identity"),
        "data": dict(at(view.manifest, "data") or {}),
        "finished": view.finished,
        "steps": view.steps,
        "skipped": view.skipped,
        "seconds": view.seconds,
        "result": {
            "verdict": found.verdict,
            "sentence": found.sentence,
            "detail": found.detail,
            "metric": found.metric,
        },
        "held_out": {
            name: {
                "unit": name_of(name).unit,
                "before": _figure(view.before.get(name)),
                "after": _figure(view.after.get(name)),
            }
            for name in dict.fromkeys([*view.before, *view.after])
        },
        "curves": {
            name: {
                "unit": name_of(name).unit,
                "steps": [int(s) for s in curve.steps],
                "values": list(map(_finite, curve.values)),
            }
            for name, curve in view.curves.items()
        },
        "alarms": None if view.alarms is None else [asdict(a) for a in view.alarms],
        "audit": {k: v for k, v in view.audit.items() if k not in ("example", "edges", "dropped_rows")},
        "samples": len(view.samples),
        "settings": dict(view.config),
        "versions": dict(at(view.manifest, "versions") or {}),
        "seed": real(view.manifest.get("seed")),
        "config_sha256": view.manifest.get("config_sha256"),
        "problems": list(view.problems),
    }


def _evaluation(view: EvaluationView) -> dict[str, Any]:
    return {
        "name": view.name,
        "kind": view.kind,
        "headline": view.headline,
        "figures": {w.name: [asdict(f) for f in w.figures] for w in view.subjects},
        "contrasts": [asdict(c) for c in view.contrasts],
        "warnings": list(view.warnings),
        "problems": list(view.problems),
    }


def _figure(value: Measured | None) -> dict[str, float | int | None] | None:
    return None if value is None else asdict(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
