"""Several runs over one another: the same axes, one table of results, and the settings in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from trueup.reports.answers import Sample, beside, facts_of
from trueup.reports.chapter import Drawn, EvaluationShown, drawn_frontier, drawn_line, evaluation_shown, lanes
from trueup.reports.charts import (
    TONES,
    ChartGroup,
    Frontier,
    LineChart,
    Series,
    file_key,
    frontier_points,
    held_out,
    line,
    notes_of,
)
from trueup.reports.evaluation import EvaluationView
from trueup.reports.names import GROUPS, name_of
from trueup.reports.numbers import duration, percent, whole
from trueup.reports.read import RunView, at, real
from trueup.reports.result import CHANCE, FIRST, Headline, cell, figure, headline, is_share
from trueup.reports.settings_table import Difference, differing
from trueup.reports.strips import Mark, interval_strip, strip_range

MOST_RUNS = len(TONES)
SIDES = 4  # answers beside one another


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in the table of runs."""

    name: str
    tone: str
    title: str
    headline: Headline
    facts: Sequence[str]


@dataclass(frozen=True, slots=True)
class CompareRow:
    """One figure of one run, on the scale of all runs; ``first`` of its figure."""

    figure: str
    unit: str
    first: bool
    run: str
    tone: str
    words: tuple[str, str]
    strip: Markup
    n: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything the page tells of several runs."""

    title: str
    lead: str
    headline: Headline
    runs: Sequence[RunLine]
    problems: Sequence[str]
    rows: Sequence[CompareRow]
    rows_note: str
    groups: Sequence[tuple[str, bool, Sequence[Drawn]]]
    frontier: Drawn | None
    settings: Sequence[Difference]
    samples: Sequence[Sample]
    alarms: Sequence[tuple[str, str, Sequence[tuple[str, Markup]]]]
    evaluations: Sequence[EvaluationShown]


@dataclass(frozen=True, slots=True)
class CompareCharts:
    """The charts of a comparison as plain values."""

    groups: Sequence[ChartGroup]
    frontier: Frontier | None


def named_apart(views: Sequence[RunView]) -> list[RunView]:
    """The runs, called after as much of their paths as tells them apart."""
    paths = [v.path.resolve() for v in views]
    paths = [p.parent if p.name == "run" and (p.parent / "pairs.jsonl").exists() else p for p in paths]
    names = [p.name for p in paths]
    for depth in range(2, 6):
        twice = {n for n, count in Counter(names).items() if count > 1}
        names = ["/".join(Path(p).parts[-depth:]) if n in twice else n for n, p in zip(names, paths, strict=True)]
    twice = {n for n, count in Counter(names).items() if count > 1}
    names = [f"{n} ({i})" if n in twice else n for i, n in enumerate(names, 1)]
    return [replace(v, name=n) for v, n in zip(views, names, strict=True)]


def same_rows(views: Sequence[RunView]) -> bool | None:
    """Whether all runs held out the same rows.

    True if the data are the same token for token and as many rows are held out; False if their number differs; None if
    the folders do not tell.
    """
    counts = {real(at(v.manifest, "data", "held_out")) for v in views}
    hashes = {at(v.manifest, "data", "tokens_sha256") for v in views}
    if len(counts) > 1:
        return False
    return True if len(hashes) == 1 and None not in hashes and None not in counts else None


def comparison_charts(views: Sequence[RunView]) -> CompareCharts:
    """Every metric that two runs have, all runs in one chart."""
    groups: list[ChartGroup] = []
    for group in GROUPS:
        charts: list[LineChart] = []
        for metric in dict.fromkeys(m for p in group.panels for m in p.metrics):
            charts += [c for c in (_held_out_chart(views, metric), _chart(views, metric)) if c is not None]
        if charts:
            groups.append(ChartGroup(group.title, charts, group.folded))
    paths = {v.name: frontier_points(v) for v in views}
    paths = {n: p for n, p in paths.items() if len(p) > 1}
    frontier = None
    if len(paths) > 1:
        title = "Score against KL"
        frontier = Frontier("frontier", title, "KL to the reference, nats an answer", "Score", paths)
    return CompareCharts(groups, frontier)


def _chart(views: Sequence[RunView], metric: str) -> LineChart | None:
    series: list[Series] = []
    for view, tone in zip(views, TONES, strict=False):
        curve = view.curves.get(metric)
        if curve is not None and curve.finite:
            series.append(line(curve, view.name, tone))
    if len(series) < 2:
        return None
    name = name_of(metric)
    return LineChart(file_key(metric), name.title, name.unit, series, notes=notes_of(series))


def _held_out_chart(views: Sequence[RunView], metric: str) -> LineChart | None:
    """Of metrics that were measured on held-out rows during training too; before and after stand in the table."""
    series: list[Series] = []
    for view, tone in zip(views, TONES, strict=False):
        points = held_out(view, metric)
        if points is not None:
            series.append(Series(view.name, tone, *points))
    if len(series) < 2 or max(len(s.x) for s in series) < 3:
        return None
    name = name_of(metric)
    return LineChart(
        f"held-out-{file_key(metric)}", f"{name.title}, held-out", name.unit, series, notes=notes_of(series)
    )


def comparison_of(views: Sequence[RunView], charts: CompareCharts, evaluations: Sequence[EvaluationView]) -> Comparison:
    """Everything that is told of several runs."""
    alarms = [(v.name, tone, lanes(v.alarms or (), v.steps)) for v, tone in zip(views, TONES, strict=False)]
    return Comparison(
        title=f"{len(views)} runs compared",
        lead=_lead(views),
        headline=_headline(views),
        runs=[_run_line(v, tone) for v, tone in zip(views, TONES, strict=False)],
        problems=[f"{v.name}: {p}" for v in views for p in v.problems],
        rows=_rows(views),
        rows_note=_rows_note(views, evaluations),
        groups=[(g.title, g.folded, [drawn_line(c) for c in g.charts]) for g in charts.groups],
        frontier=None if charts.frontier is None else drawn_frontier(charts.frontier),
        settings=differing([v.config for v in views]),
        samples=_samples(views),
        alarms=[a for a in alarms if a[2]],
        evaluations=[evaluation_shown(e) for e in evaluations],
    )


def _lead(views: Sequence[RunView]) -> str:
    words: list[str] = []
    for what, key in (("model", "identity"), ("data", "tokens_sha256")):
        values = {str(at(v.manifest, what, key)) for v in views}
        words.append(f"the same {what}" if len(values) == 1 else f"{len(values)} different {what}s" if what == "model"
                     else "different data")  # fmt: skip
    methods = list(dict.fromkeys(v.method for v in views))
    count = len(differing([v.config for v in views]))
    settings = (
        "all settings equal" if not count else "one setting differs" if count == 1 else f"{count} settings differ"
    )
    return f"{', '.join(methods)} · {' · '.join(words)} · {settings}"


def _run_line(view: RunView, tone: str) -> RunLine:
    alarms = "not watched" if view.alarms is None else whole(len(view.alarms))
    time = "–" if view.seconds is None else duration(view.seconds)
    steps = whole(view.steps) + ("" if view.finished else ", unfinished")
    model = view.model.rstrip("/").rsplit("/", 1)[-1].removeprefix("bundled:")
    facts = [steps, time, str(view.manifest.get("seed", "–")), alarms]
    return RunLine(view.name, tone, f"{view.method.upper()} on {model}", headline(view), facts)


def _rows(views: Sequence[RunView]) -> list[CompareRow]:
    """After training, a row a run under each figure, all on one scale."""
    rows: list[CompareRow] = []
    for metric in dict.fromkeys(m for v in views for m in v.after):
        found = [(v.name, tone, v.after[metric]) for v, tone in zip(views, TONES, strict=False) if metric in v.after]
        chance = CHANCE.get(metric)
        marks = [Mark(f.mean, f.low, f.high, tone) for _, tone, f in found]
        within = strip_range(marks, [] if chance is None else [chance])
        name = name_of(metric)
        for index, ((run, tone, value), mark) in enumerate(zip(found, marks, strict=True)):
            rows.append(
                CompareRow(
                    name.title, "" if is_share(metric) else name.unit, index == 0, run, tone, cell(metric, value),
                    interval_strip([mark], within, chance), "" if value.n is None else whole(value.n),
                )
            )  # fmt: skip
    return rows


def _rows_note(views: Sequence[RunView], evaluations: Sequence[EvaluationView]) -> str:
    same = same_rows(views)
    if same is False:
        return "The runs held out different rows: their figures stand beside each other, but no difference follows."
    if same is None:
        return "Whether the runs held out the same rows cannot be told, since their data differ: no difference follows."
    if any(e.contrasts for e in evaluations):
        return "All runs held out the same rows. Differences, prompt by prompt, stand under the evaluation."
    return (
        "All runs held out the same rows. Run folders keep no figures row by row, so these intervals are not paired "
        "and may hide a difference: trueup eval compares models prompt by prompt, and --eval shows that here."
    )


def _headline(views: Sequence[RunView]) -> Headline:
    """Which run is ahead on the first figure that all have, and whether the intervals allow to say so."""
    metric = next((m for m in FIRST if all(m in v.after for v in views)), None)
    if metric is None or (metric == "loss" and len({(v.method, str(v.config.get("loss"))) for v in views}) > 1):
        why = "No figure on held-out rows means the same in all of them."
        return Headline("unknown", "The runs have no result in common.", why)
    up = name_of(metric).better == "up"
    order = sorted(views, key=lambda v: v.after[metric].mean, reverse=up)
    first, second = order[0], order[1]
    best, next_best = first.after[metric], second.after[metric]
    word = "highest" if up else "lowest"
    sentence = (
        f"{name_of(metric).title} on held-out rows is {word} in {first.name}, {figure(metric, best)}, and next in "
        f"{second.name}, {figure(metric, next_best)}."
    )
    if best.mean == next_best.mean:
        value = percent(best.mean) if is_share(metric) else figure(metric, best)
        return Headline(
            "open", f"{first.name} and {second.name} are equal: {name_of(metric).title} {value}.", "", metric
        )
    if same_rows(views) is not True:
        return Headline("open", sentence, "The held-out rows are not known to be the same: this is no ranking.", metric)
    if None in (best.low, best.high, next_best.low, next_best.high):
        return Headline("open", sentence, "One prompt: no interval can be given.", metric)
    low, high = (best.low, next_best.high) if up else (next_best.low, best.high)
    if low is not None and high is not None and low > high:
        return Headline("better", sentence, "Their intervals do not overlap.", metric)
    return Headline("open", sentence, "Their intervals overlap: no difference between the two is shown.", metric)


def _samples(views: Sequence[RunView]) -> list[Sample]:
    """Answers of the finished models to the held-out prompts that all runs kept."""
    tables: list[Mapping[str, tuple[str, str, str]]] = []
    for view in views[:SIDES]:
        greedy = [s for s in view.samples if s.greedy and s.step > 0]
        last = max((s.step for s in greedy), default=0)
        tables.append({s.prompt: (s.answer, facts_of(s), view.name) for s in greedy if s.step == last and s.prompt})
    shared = [p for p in tables[0] if all(p in t for t in tables)]
    return [
        beside(p, [(t[p][2], tone, t[p][0], t[p][1]) for t, tone in zip(tables, TONES, strict=False)])
        for p in shared[:8]
    ]
