"""A report as a folder: ``report.html``, ``report.json`` and ``charts/*.png``, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueup.errors import ConfigError, RunError
from trueup.reports.chapter import chapter_of, charts_of
from trueup.reports.charts import ChartGroup, Frontier, LineChart, Spread, file_key
from trueup.reports.comparison import MOST_RUNS, comparison_charts, comparison_of, named_apart
from trueup.reports.evaluation import evaluations_of, read_evaluation
from trueup.reports.page import LARGEST, render
from trueup.reports.pictures import png_of
from trueup.reports.read import read_view
from trueup.reports.record import record_of
from trueup.runs.disk import guard, write_atomic
from trueup.runs.encode import pretty

PAGE, RECORD, CHARTS = "report.html", "report.json", "charts"


@dataclass(frozen=True, slots=True)
class Written:
    """What was made.

    Attributes:
        page: the HTML file.
        record: what ``report.json`` holds.
        pictures: the PNG files.
        problems: what the folders lack, in words.
    """

    page: Path
    record: Mapping[str, Any]
    pictures: Sequence[Path]
    problems: Sequence[str]


def write_report(
    runs: Sequence[Path], out: Path, evaluations: Sequence[Path] = (), *, pictures: bool = True
) -> Written:
    """One page with a chapter a run.

    Args:
        runs: run folders, or folders of the demo.
        out: folder to make, or one that holds an older report.
        evaluations: folders of `trueup eval` besides those inside the run folders; shown in the first chapter.
        pictures: whether PNG files are made.

    Raises:
        RunError: a folder that is no run, or ``out`` holds something else.
        ResourceError: the system refuses.
    """
    check_out(out)
    views = [read_view(path) for path in runs]
    views = named_apart(views) if len(views) > 1 else views
    found = [evaluations_of(view.path) for view in views]
    found[0] += [read_evaluation(path) for path in evaluations]
    charts = [charts_of(view) for view in views]
    chapters = [chapter_of(*parts, i) for i, parts in enumerate(zip(views, charts, found, strict=True), 1)]
    title = chapters[0].title if len(views) == 1 else f"{len(views)} runs"
    page = render("report.html", "report", title, len(views), chapters=chapters)
    several = len(views) > 1
    drawn: dict[str, LineChart | Frontier | Spread] = {}
    for number, (view, own) in enumerate(zip(views, charts, strict=True), 1):
        drawn |= _named(own.groups, own.frontier, own.spreads, f"{number}-{file_key(view.name)}-" if several else "")
    return _written(out, page, record_of("report", views, found), drawn if pictures else {})


def write_comparison(
    runs: Sequence[Path], out: Path, evaluations: Sequence[Path] = (), *, pictures: bool = True
) -> Written:
    """One page with several runs over one another. Arguments and errors as :func:`write_report`.

    Raises:
        ConfigError: fewer than two runs, or more than there are colours.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise ConfigError(f"compare takes 2 to {MOST_RUNS} runs, got {len(runs)}; trueup report takes one")
    check_out(out)
    views = named_apart([read_view(path) for path in runs])
    found = [read_evaluation(path) for path in evaluations]
    charts = comparison_charts(views)
    comparison = comparison_of(views, charts, found)
    page = render("compare.html", "comparison", comparison.title, len(views), c=comparison)
    drawn = _named(charts.groups, charts.frontier, (), "") if pictures else {}
    return _written(out, page, record_of("comparison", views, [found]), drawn)


def check_out(out: Path) -> None:
    """A report may replace an older one, and nothing else.

    Raises:
        RunError: ``out`` is a file, or a folder that holds something that is no report.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; name a folder with --out")
    names = sorted(p.name for p in out.iterdir() if ".tmp-" not in p.name) if out.exists() else []
    others = [n for n in names if n not in (PAGE, RECORD, CHARTS)] if RECORD in names else names
    if others:
        raise RunError(f"{out}: holds {others[0]}, which no report left there; name another folder with --out")


def _named(
    groups: Sequence[ChartGroup], frontier: Frontier | None, spreads: Sequence[Spread], before: str
) -> dict[str, LineChart | Frontier | Spread]:
    charts: list[LineChart | Frontier | Spread] = [c for g in groups for c in g.charts]
    charts += [*([] if frontier is None else [frontier]), *spreads]
    found: dict[str, LineChart | Frontier | Spread] = {}
    for chart in charts:
        name = f"{before}{chart.key}"
        again = sum(known.rsplit("~", 1)[0] == name for known in found)
        found[f"{name}~{again + 1}" if again else name] = chart
    return {f"{name}.png": chart for name, chart in found.items()}


def _written(
    out: Path, page: str, record: Mapping[str, Any], pictures: Mapping[str, LineChart | Frontier | Spread]
) -> Written:
    raw = page.encode("utf-8", errors="replace")
    if len(raw) > LARGEST:
        raise RunError(
            f"{out / PAGE}: the page would have {len(raw):,} bytes, more than {LARGEST:,}: give fewer runs at a time"
        )
    folder = out / CHARTS
    with guard(folder, "making the folder"):
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / RECORD, pretty(json.loads(json.dumps(record))))  # first: by it the folder is known as ours
        folder.mkdir(exist_ok=True)
        for old in {p.name for p in folder.glob("*.png")} - set(pictures):
            (folder / old).unlink()
    for name, chart in pictures.items():
        write_atomic(folder / name, png_of(chart))
    write_atomic(out / PAGE, raw)
    problems = [f"{run['name']}: {p}" for run in record["runs"] for p in run["problems"]]
    return Written(out / PAGE, record, [folder / name for name in pictures], problems)
