"""Everything that the page tells of one run, in the order it is told, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from trueup.reports.answers import Sample, before_after, drawn, evaluated, evaluation_spreads, run_spreads
from trueup.reports.charts import TONES, ChartGroup, Frontier, LineChart, Spread, curve_groups, frontier
from trueup.reports.evaluation import Contrasted, EvaluationView, Found, interval_words
from trueup.reports.names import name_of
from trueup.reports.numbers import duration, percent, tidy, whole
from trueup.reports.points import frontier_svg, spread_svg
from trueup.reports.read import AlarmSeen, Measured, RunView, Sampled, at, real
from trueup.reports.result import CHANCE, Headline, cell, headline, is_share
from trueup.reports.settings_table import Setting, settings_of
from trueup.reports.strips import Mark, interval_strip, lane, range_strip, strip_range
from trueup.reports.svg import line_svg
from trueup.reports.words import shortened

METHOD_WORDS = {"sft": "Supervised fine-tuning", "reward": "Reward model"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart with its picture: what stands over it, and the notes below."""

    title: str
    unit: str
    svg: Markup
    change: str
    notes: str


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One figure before and after, in words and as a strip."""

    name: str
    unit: str
    cells: Sequence[tuple[str, str]]
    strip: Markup
    n: str
    tone: str = "one"


@dataclass(frozen=True, slots=True)
class LengthRow:
    """Lengths of one side of the data."""

    name: str
    strip: Markup
    words: str


@dataclass(frozen=True, slots=True)
class AuditShown:
    """What the data check found."""

    facts: Sequence[tuple[str, str]]
    lengths: Sequence[LengthRow]
    longer: tuple[str, Markup] | None
    warnings: Sequence[str]
    example: Sequence[tuple[bool, str]]


@dataclass(frozen=True, slots=True)
class EvaluationShown:
    """An evaluation, ready for the template."""

    view: EvaluationView
    warnings: Sequence[str]
    tables: Sequence[tuple[str, Sequence[ResultRow], Sequence[str]]]
    contrasts: Sequence[tuple[Contrasted, Markup, tuple[str, str]]]
    spreads: Sequence[Drawn]
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class Chapter:
    """One run."""

    anchor: str
    view: RunView
    title: str
    subtitle: str
    state: str
    headline: Headline
    facts: Sequence[tuple[str, str]]
    answered: Sequence[ResultRow]
    results: Sequence[ResultRow]
    groups: Sequence[tuple[str, bool, Sequence[Drawn]]]
    frontier: Drawn | None
    spreads: Sequence[Drawn]
    samples: Sequence[Sample]
    drawn: Sequence[tuple[str, Sequence[Sampled]]]
    lanes: Sequence[tuple[str, Markup]]
    alarms: Sequence[AlarmSeen]
    audit: AuditShown | None
    settings: Sequence[Setting]
    provenance: Sequence[tuple[str, str]]
    evaluations: Sequence[EvaluationShown]


@dataclass(frozen=True, slots=True)
class Charts:
    """The charts of a run as plain values: what the page draws, and what becomes PNG files."""

    groups: Sequence[ChartGroup]
    frontier: Frontier | None
    spreads: Sequence[Spread]


def charts_of(view: RunView) -> Charts:
    """Every chart of a run."""
    return Charts(curve_groups(view), frontier(view), run_spreads(view))


def chapter_of(view: RunView, charts: Charts, evaluations: Sequence[EvaluationView], number: int) -> Chapter:
    """Everything that is told of a run."""
    model = view.model.rstrip("/").rsplit("/", 1)[-1].removeprefix("bundled:")
    alarms = list(view.alarms or ())
    return Chapter(
        anchor=f"run-{number}",
        view=view,
        title=f"{METHOD_WORDS.get(view.method, view.method.upper())} on {model}",
        subtitle=_subtitle(view),
        state="finished" if view.finished else "unfinished",
        headline=headline(view),
        facts=_facts(view),
        answered=result_rows([(side, demo_figures(view.demo, side)) for side in ("before", "after")]),
        results=result_rows([("before", view.before), ("after", view.after)]),
        groups=[(g.title, g.folded, [drawn_line(c) for c in g.charts]) for g in charts.groups],
        frontier=None if charts.frontier is None else drawn_frontier(charts.frontier),
        spreads=[drawn_spread(s) for s in charts.spreads],
        samples=before_after(view),
        drawn=drawn(view),
        lanes=lanes(alarms, view.steps),
        alarms=alarms,
        audit=_audit(view.audit),
        settings=settings_of(view.config),
        provenance=_provenance(view),
        evaluations=[evaluation_shown(e) for e in evaluations],
    )


def drawn_line(chart: LineChart) -> Drawn:
    """A line chart with its picture."""
    change = "" if chart.change is None else f"{tidy(chart.change[0])} → {tidy(chart.change[1])}"
    return Drawn(chart.title, chart.unit, line_svg(chart), change, "; ".join(chart.notes))


def drawn_frontier(chart: Frontier) -> Drawn:
    """A frontier with its picture."""
    note = f"a dot a {chart.step_word}, stronger towards the end; up is better, left is closer to the reference"
    return Drawn(chart.title, f"{chart.y_title} (up) against {chart.x_title} (right)", frontier_svg(chart), "", note)


def drawn_spread(chart: Spread) -> Drawn:
    """A distribution with its picture."""
    return Drawn(chart.title, chart.unit, spread_svg(chart), "", "; ".join(chart.notes))


def _subtitle(view: RunView) -> str:
    rows, held = (real(at(view.manifest, "data", k)) for k in ("rows", "held_out"))
    data = str(at(view.config, "data", "path") or "unknown data")
    data = data.rstrip("/").rsplit("/", 1)[-1] or data
    words = [f"{whole(rows)} rows of {data}" if rows is not None else data]
    if held is not None:
        words.append(f"{whole(held)} held out")
    reward = view.config.get("reward")
    if reward is not None:
        who = reward if isinstance(reward, str) else at(reward, "rule") or at(reward, "path") or "a mixture of scorers"
        words.append(f"scored by {who}")
    beta = at(view.config, "loss", "beta")
    return ", ".join(words + ([f"β = {beta}"] if beta is not None else []))


def _facts(view: RunView) -> list[tuple[str, str]]:
    facts = [("Steps", whole(view.steps) + ("" if view.finished else ", unfinished"))]
    if view.seconds is not None:
        facts.append(("Time in steps", duration(view.seconds)))
    speed = view.curves.get("tokens_per_second")
    if speed is not None and speed.finite:
        facts.append(("Throughput", f"{whole(sorted(speed.finite)[len(speed.finite) // 2])} tokens/s"))
    facts.append(("Seed", str(view.manifest.get("seed", "–"))))
    if view.skipped:
        facts.append(("Steps skipped", whole(view.skipped)))
    facts.append(("Alarms", "not watched" if view.alarms is None else whole(len(view.alarms))))
    return facts


def result_rows(
    sides: Sequence[tuple[str, Mapping[str, Measured]]], tones: Sequence[str] = ("grey", "one")
) -> list[ResultRow]:
    """A row a figure that any side has: its cells and all sides on one scale."""
    rows: list[ResultRow] = []
    for metric in dict.fromkeys(m for _, side in sides for m in side):
        found = [side.get(metric) for _, side in sides]
        marks = [Mark(f.mean, f.low, f.high, tone) for f, tone in zip(found, tones, strict=False) if f is not None]
        chance = CHANCE.get(metric)
        extra = [] if chance is None else [chance]
        counts = sorted({f.n for f in found if f is not None and f.n is not None})
        strip = interval_strip(marks, strip_range(marks, extra), chance)
        name = name_of(metric)
        rows.append(
            ResultRow(name.title, "" if is_share(metric) else name.unit, [cell(metric, f) for f in found], strip,
                      " / ".join(map(whole, counts)))
        )  # fmt: skip
    return rows


def demo_figures(demo: Mapping[str, Any], side: str) -> dict[str, Measured]:
    """What the demo measured of answers to held-out prompts, before or after."""
    told = at(demo, "held_out_prompts")
    n = real(at(told, "n"))
    found: dict[str, Measured] = {}
    for metric, key in (("score", "score"), ("length", "tokens"), ("distinct_2", "distinct_2")):
        value = at(told, f"{side}_{key}")
        mean, low, high = (
            real(v) for v in (value if isinstance(value, list) and len(value) == 3 else [value] + [None] * 2)
        )
        if mean is not None:
            found[metric] = Measured(mean, low, high, None if n is None else int(n))
    return found


def lanes(alarms: Sequence[AlarmSeen], last: int) -> list[tuple[str, Markup]]:
    """A lane a monitor that spoke."""
    names = dict.fromkeys(a.monitor for a in alarms)
    return [(n, lane([(a.since, a.step, a.level) for a in alarms if a.monitor == n], last)) for n in names]


def _audit(audit: Mapping[str, Any]) -> AuditShown | None:
    if not audit:
        return None
    counts = {k: real(audit.get(k)) for k in ("read", "kept", "dropped", "truncated", "lost_eos", "duplicates")}
    names = {"read": "Rows rendered", "kept": "Kept", "dropped": "Dropped", "truncated": "Cut to fit",
             "lost_eos": "End lost", "duplicates": "Duplicates"}  # fmt: skip
    facts = [(names[k], whole(v)) for k, v in counts.items() if v is not None]
    for name, key in (("Tokens trained on", "trained_share"), ("Good rows", "desirable")):
        share = real(audit.get(key))
        if share:
            facts.append((name, percent(share)))
    warnings: list[str] = []
    leaked = audit.get("leaked")
    if isinstance(leaked, list) and leaked:
        warnings.append(f"{len(leaked)} held-out rows share their first user turn with training rows.")
    reasons = audit.get("reasons")
    if isinstance(reasons, Mapping):
        warnings += [f"Dropped, {name}: {count}" for name, count in sorted(reasons.items())]
    example = audit.get("example")
    return AuditShown(
        facts, _lengths(audit.get("lengths")), _longer(audit.get("longer_chosen")), warnings,
        marked(example) if isinstance(example, str) else [],
    )  # fmt: skip


def _lengths(lengths: Any) -> list[LengthRow]:
    keys = ("least", "median", "mean", "p95", "most")
    table: dict[str, list[float]] = {}
    for name, spread in lengths.items() if isinstance(lengths, Mapping) else ():
        values = [real(at(spread, k)) for k in keys]
        if all(v is not None for v in values):
            table[name] = [v for v in values if v is not None]
    most = max((v[-1] for v in table.values()), default=1.0)
    return [
        LengthRow(name, range_strip(v, most), f"{tidy(v[1])} · {tidy(v[3])} · {tidy(v[4])}")
        for name, v in table.items()
    ]


def _longer(value: Any) -> tuple[str, Markup] | None:
    if not isinstance(value, list) or len(value) != 3 or any(real(v) is None for v in value):
        return None
    share, low, high = (min(1.0, max(0.0, real(v) or 0.0)) for v in value)
    strip = interval_strip([Mark(share, low, high, "one")], (0.0, 1.0), 0.5)
    return f"{percent(share)} (95\u202f% interval {percent(low)} to {percent(high)})", strip


def marked(example: str) -> list[tuple[bool, str]]:
    """The parts of a decoded row: (trained on, text); trained tokens stand between ⟦ and ⟧."""
    parts: list[tuple[bool, str]] = []
    for index, piece in enumerate(shortened(example).split("⟦")):
        trained, _, rest = piece.partition("⟧") if index else ("", "", piece)
        parts += [(True, trained)] if trained else []
        parts += [(False, rest)] if rest else []
    return parts


def _provenance(view: RunView) -> list[tuple[str, str]]:
    manifest = view.manifest
    rows = [(f"{n}", str(v)) for n, v in (manifest.get("versions") or {}).items() if v] if isinstance(
        manifest.get("versions"), Mapping) else []  # fmt: skip
    platform = manifest.get("platform")
    if isinstance(platform, Mapping):
        rows.append(("machine", ", ".join(f"{k} {v}" for k, v in platform.items())))
    git = manifest.get("git")
    if isinstance(git, Mapping):
        rows.append(("commit of the folder", f"{git.get('commit')}{', with changes' if git.get('dirty') else ''}"))
    command = manifest.get("command")
    if isinstance(command, list):
        rows.append(("command", " ".join(map(str, command))))
    rows += [
        ("model", str(at(manifest, "model", "identity"))),
        ("data, sha256 of its tokens", str(at(manifest, "data", "tokens_sha256"))),
        ("config, sha256", str(manifest.get("config_sha256"))),
        ("run folder", str(view.path)),
    ]
    return rows


def evaluation_shown(view: EvaluationView) -> EvaluationShown:
    """An evaluation, ready for the template: under each figure its subjects below one another."""
    names = list(dict.fromkeys(f.name for w in view.subjects for f in w.figures))
    tables = [(n, *_subjects(view, n)) for n in names]
    return EvaluationShown(
        view=view,
        warnings=[*view.warnings, *view.problems, *(f"{w.name}: {line}" for w in view.subjects for line in w.warnings)],
        tables=tables,
        contrasts=[(c, *_contrast(c)) for c in view.contrasts],
        spreads=[drawn_spread(s) for s in evaluation_spreads(view)],
        samples=evaluated(view),
    )


def _subjects(view: EvaluationView, name: str) -> tuple[list[ResultRow], list[str]]:
    found: list[tuple[str, Found]] = [(w.name, f) for w in view.subjects for f in w.figures if f.name == name]
    tones = dict(
        zip((w.name for w in view.subjects), ("grey", "one") if len(view.subjects) == 2 else TONES, strict=False)
    )
    marks = [Mark(f.mean, f.low, f.high, tones.get(who, "eight")) for who, f in found]
    within = strip_range(marks)
    rows = [
        ResultRow(
            who, "", [interval_words(f)], interval_strip([mark], within), "" if f.n is None else whole(f.n), mark.tone
        )
        for (who, f), mark in zip(found, marks, strict=True)
    ]
    return rows, list(dict.fromkeys(f.note for _, f in found if f.note))


def _contrast(contrast: Contrasted) -> tuple[Markup, tuple[str, str]]:
    figure = contrast.figure
    mark = Mark(figure.mean, figure.low, figure.high, "one")
    return interval_strip([mark], strip_range([mark], [contrast.even]), contrast.even), interval_words(figure)
