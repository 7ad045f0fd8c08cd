"""The comparison of `trueup bench-methods`: from kept answers to figures, tables and pictures.

Every figure is made from the files of the finished jobs alone, so it can be made again without training anything.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from trueup.evals.figure import Figure, mean_figure, rate_figure
from trueup.evals.texts import GROUP, variety_across
from trueup.feedback.base import Answered
from trueup.recipes.evaluate import Contrast, contrast, holm_corrected
from trueup.reports.pictures import COLOURS, GREY, HAIR, INK
from trueup.runs.disk import write_atomic
from trueup.runs.encode import parse
from trueup.runs.environment import environment
from trueup.runs.folder import write_json
from trueup.runs.metrics import read_jsonl
from trueup.train.methods import find_method

BASE = "base"
NONE, FAILED = "-", "failed"
NEEDS = {"sft": "demonstrations", "pairs": "pairs", "unpaired": "labels", "policy": "prompts + scorer",
         "online": "prompts + scorer"}  # fmt: skip
OUTCOME = ("method", "score", "against base", "win rate", "KL", "tokens", "distinct-2", "over seeds")
COST = ("method", "data needed", "models held", "peak GiB", "seconds", "with drawing", "tokens/s", "steps")


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished job.

    Attributes:
        result: what ``result.json`` holds.
        answers: lines of ``answers.jsonl``, in the order of prompts and indices.
    """

    result: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]

    def scores(self, name: str) -> np.ndarray:
        """Of one scorer, ``[n]``."""
        return np.array([a["scores"][name] for a in self.answers], dtype=float)


def read_entry(folder: Path) -> Entry | None:
    """What a job left; None: it is not finished."""
    if not (folder / "result.json").exists():
        return None
    return Entry(parse((folder / "result.json").read_bytes()), list(read_jsonl(folder / "answers.jsonl")))


# ── figures ──


def report_of(
    out: Path, settings: Mapping[str, Any], methods: Sequence[str], seeds: Sequence[int], failed: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that is told.

    Its keys: ``settings``, ``environment``, ``scorers``, ``headline`` (the scorer that verdicts are about: gold where
    there is one), ``prompts`` (trained on), ``asked``, ``base``, ``methods``, ``failed``.

    A method's record: ``method``, ``seeds`` (finished), ``needs``, ``rows``, ``models``, ``peak_bytes`` (the largest
    over seeds), ``seconds`` (mean), ``drawing_seconds`` (mean; what its shared answers took, None: not known),
    ``tokens_per_second``, ``steps``, ``lr``, ``kl`` (nats an answer, k3, mean over seeds), ``tokens`` (of an answer)
    and ``distinct_2``; and by scorer, under ``scores``: ``score``, ``contrast``, ``win_rate``, ``by_seed``,
    ``over_seeds`` (standard deviation of the means of the seeds; None with one).

    Args:
        out: the folder.
        settings: of the comparison.
        methods: asked for.
        seeds: asked for, of each.
        failed: folder -> why.
    """
    base = read_entry(out / BASE)
    assert base is not None
    names = list(base.answers[0]["scores"])
    rows = {m: [e for s in seeds if (e := read_entry(out / f"{m}-{s}")) is not None] for m in methods}
    records = {m: _record(m, entries, base, out) for m, entries in rows.items() if entries}
    for name in names:
        pairs = [(m, _contrast(name, m, rows[m], base)) for m in records]
        for (m, _), one in zip(pairs, holm_corrected([c for _, c in pairs]), strict=True):
            records[m]["scores"][name]["contrast"] = one.to_json()
    return {
        "settings": dict(settings), "environment": environment(), "scorers": names, "headline": names[-1],
        "prompts": len(read_jsonl(out / "prompts.jsonl")),
        "asked": {"methods": list(methods), "seeds": list(seeds)},
        "base": {"scores": {n: {"score": _score(n, [base]).to_json()} for n in names}, **_texts([base])},
        "methods": list(records.values()), "failed": dict(failed),
    }  # fmt: skip


def _record(method: str, entries: Sequence[Entry], base: Entry, out: Path) -> dict[str, Any]:
    """A method's record without its contrasts."""
    results = [e.result for e in entries]
    found = find_method(method)
    assert found is not None
    peaks = [r["peak_bytes"] for r in results if r["peak_bytes"] is not None]
    shared = found.family not in ("policy", "online")
    drawing = [parse((out / f"seed-{r['seed']}" / "pairs.json").read_bytes())["seconds"] for r in results
               ] if shared else [0.0]  # fmt: skip
    return {
        "method": method, "seeds": [r["seed"] for r in results], "needs": NEEDS[found.family],
        "rows": [r["rows"] for r in results], "models": results[0]["models"],
        "peak_bytes": max(peaks) if peaks else None,
        "seconds": float(np.mean([r["seconds"] for r in results])),
        "drawing_seconds": None if None in drawing else float(np.mean(drawing)),
        "tokens_per_second": sum(r["tokens"] for r in results) / sum(r["loop_seconds"] for r in results),
        "steps": [r["steps"] for r in results], "lr": results[0]["lr"],
        "kl": float(np.mean([r["drift"]["kl_k3"]["mean"] for r in results])),
        **_texts(entries),
        "scores": {n: _scored(n, entries, base) for n in base.answers[0]["scores"]},
    }  # fmt: skip


def _scored(name: str, entries: Sequence[Entry], base: Entry) -> dict[str, Any]:
    by_seed = [float(e.scores(name).mean()) for e in entries]
    return {
        "score": _score(name, entries).to_json(),
        "win_rate": _wins(name, entries, base).to_json(),
        "by_seed": by_seed,
        "over_seeds": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
    }


def _score(name: str, entries: Sequence[Entry]) -> Figure:
    """Mean over prompts, answers and seeds; the interval is over prompts."""
    return mean_figure(name, np.concatenate([e.scores(name) for e in entries]), _clusters(entries))


def _clusters(entries: Sequence[Entry]) -> list[str]:
    return [a["id"] for e in entries for a in e.answers]


def _by_prompt(name: str, entries: Sequence[Entry]) -> dict[str, float]:
    """A prompt's mean over its answers of all seeds."""
    kept: dict[str, list[float]] = {}
    for e in entries:
        for answer, value in zip(e.answers, e.scores(name).tolist(), strict=True):
            kept.setdefault(answer["id"], []).append(value)
    return {prompt: float(np.mean(values)) for prompt, values in kept.items()}


def _contrast(name: str, method: str, entries: Sequence[Entry], base: Entry) -> Contrast:
    mine, theirs = _by_prompt(name, entries), _by_prompt(name, [base])
    order = list(theirs)
    return contrast(name, (method, np.array([mine[p] for p in order])),
                    (BASE, np.array([theirs[p] for p in order])), order)  # fmt: skip


def _wins(name: str, entries: Sequence[Entry], base: Entry) -> Figure:
    """How often an answer scores higher than the base's answer of the same index; equal scores count half."""
    theirs = base.scores(name)
    credit = np.concatenate([0.5 + 0.5 * np.sign(e.scores(name) - theirs) for e in entries])
    return rate_figure("win_rate", credit, _clusters(entries))


def _texts(entries: Sequence[Entry]) -> dict[str, Any]:
    """Length and variety of answers."""
    lengths = np.array([float(a["tokens"]) for e in entries for a in e.answers])
    found = [v for e in entries if (v := _distinct(e)) is not None]
    return {
        "tokens": mean_figure("tokens", lengths, _clusters(entries), bounds=(0.0, math.inf)).to_json(),
        "distinct_2": float(np.mean(found)) if found else None,
    }


def _distinct(entry: Entry) -> float | None:
    """distinct-2 across prompts, the first answer to each; None: one prompt."""
    answers = [Answered(id=a["id"], prompt=str(a["id"]), answer=a["answer"]) for a in entry.answers]
    prompts = len({a.id for a in answers})
    if prompts < 2:
        return None
    figures = variety_across(answers, group=min(GROUP, prompts))
    return next(f.mean for f in figures if f.name == "distinct_2_across")


# ── tables ──


def outcome_rows(report: Mapping[str, Any], scorer: str) -> Iterator[tuple[str, ...]]:
    """What came of it, under the headings :data:`OUTCOME`: the base first, then every method."""
    base = report["base"]
    yield (BASE, interval(base["scores"][scorer]["score"]), NONE, NONE, NONE, *_text_cells(base), NONE)
    for r in report["methods"]:
        own = r["scores"][scorer]
        spread = f"sd {own['over_seeds']:.3f}" if own["over_seeds"] is not None else "one seed"
        yield (
            _name(r, report), interval(own["score"]), interval(own["contrast"]["figure"], sign=True),
            interval(own["win_rate"]), f"{r['kl']:.2f}", *_text_cells(r), spread,
        )  # fmt: skip
    yield from _failed_rows(report, len(OUTCOME))


def cost_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """What it took, under the headings :data:`COST`."""
    for r in report["methods"]:
        drawn = r["drawing_seconds"]
        yield (
            _name(r, report), f"{_range(r['rows'])} {r['needs']}", ", ".join(r["models"]),
            "n/a" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 2**30:.2f}", f"{r['seconds']:.0f}",
            "n/a" if drawn is None else f"{r['seconds'] + drawn:.0f}", f"{r['tokens_per_second']:.0f}",
            _range(r["steps"]),
        )  # fmt: skip
    yield from _failed_rows(report, len(COST))


def _name(record: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    done, asked = len(record["seeds"]), len(report["asked"]["seeds"])
    return record["method"] if done == asked else f"{record['method']} ({done} of {asked} seeds)"


def _failed_rows(report: Mapping[str, Any], width: int) -> Iterator[tuple[str, ...]]:
    """Methods of which no seed was finished."""
    done = {r["method"] for r in report["methods"]}
    for method in report["asked"]["methods"]:
        if method not in done:
            yield (method, FAILED, *([NONE] * (width - 2)))


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)}-{max(values)}"


def _text_cells(record: Mapping[str, Any]) -> tuple[str, str]:
    distinct = record["distinct_2"]
    return f"{record['tokens']['mean']:.1f}", "n/a" if distinct is None else f"{distinct:.3f}"


def interval(figure: Mapping[str, Any], sign: bool = False) -> str:
    """``0.61 [0.55, 0.67]``, or ``[n/a]`` where no interval is possible."""
    form = "+.2f" if sign else ".2f"
    bounds = "n/a" if figure["low"] is None else f"{figure['low']:{form}}, {figure['high']:{form}}"
    return f"{figure['mean']:{form}} [{bounds}]"


def verdicts(report: Mapping[str, Any]) -> list[str]:
    """In a line each: what every difference to the base shows, and what failed."""
    scorer = report["headline"]
    said = {r["method"]: r["scores"][scorer]["contrast"]["verdict"] for r in report["methods"]}
    lines = [f"{m}: {v.removeprefix(m + ' ')}" + (" than the base" if v.startswith(m) else "") for m, v in said.items()]
    return [*lines, *(f"{name} failed: {reason}" for name, reason in report["failed"].items())]


def scorer_title(report: Mapping[str, Any], scorer: str) -> str:
    """What a score is, plainly."""
    settings = report["settings"]
    if scorer == "gold":
        return f"the gold score, {settings['gold']}, which nothing was trained on"
    return f"the score that was trained on, {settings['reward']}, on prompts that were not"


def budget(report: Mapping[str, Any]) -> str:
    """The budget in a sentence."""
    s = report["settings"]
    lr = "each method's default" if s["lr"] is None else f"{s['lr']:g} for all"
    how = f"LoRA of rank {s['lora_rank']}" if s["lora_rank"] else "all weights trained"
    return (
        f"Budget: for every method and seed {report['prompts']} prompts x {s['n']} answers of at most "
        f"{s['max_new_tokens']} tokens, drawn and scored; {s['passes']} passes over the data, {s['rows_a_step']} "
        f"prompts or pairs a step; {how}; learning rate {lr}."
    )


def markdown(report: Mapping[str, Any]) -> str:
    """Both tables with what must be known to read them."""
    n, answers = (report["base"]["scores"][report["headline"]]["score"][k] for k in ("clusters", "n"))
    parts = [budget(report), ""]
    for scorer in reversed(report["scorers"]):
        title = f"Score: {scorer_title(report, scorer)}. {n} prompts, {answers} answers of each model and seed:"
        parts += [title, "", *_table(OUTCOME, outcome_rows(report, scorer)), ""]
    parts += ["What it took (means over seeds; peak: the largest):", "", *_table(COST, cost_rows(report)), ""]
    parts += [f"- {line}" for line in verdicts(report)]
    return "\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Iterator[tuple[str, ...]]) -> list[str]:
    rule = "|---|" + "--:|" * (len(heads) - 1)
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(cells)} |" for cells in rows)]


# ── pictures ──


def pictures(report: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files by name; none without a finished method."""
    if not report["methods"]:
        return {}
    drawings: dict[str, Callable[[Picture, Mapping[str, Any]], None]] = {
        "score.png": _draw_scores, "score-kl.png": _draw_kl, "cost.png": _draw_cost,
    }  # fmt: skip
    return {name: _png(draw, report) for name, draw in drawings.items()}


def _png(draw: Callable[[Picture, Mapping[str, Any]], None], report: Mapping[str, Any]) -> bytes:
    picture = Picture(figsize=(6.4, 3.6), dpi=200, layout="constrained")
    FigureCanvasAgg(picture)
    draw(picture, report)
    stream = io.BytesIO()
    picture.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _styled(axes: Axes, title: str, grid: str = "both") -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.tick_params(colors=GREY, labelsize=8, length=3, labelcolor=INK)
    axes.grid(axis=grid, color=HAIR, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _error(figure: Mapping[str, Any]) -> list[list[float]]:
    """Half-widths below and above; none where there is no interval."""
    if figure["low"] is None:
        return [[0.0], [0.0]]
    return [[figure["mean"] - figure["low"]], [figure["high"] - figure["mean"]]]


def _draw_scores(picture: Picture, report: Mapping[str, Any]) -> None:
    """Score with its interval by method, small points the seeds, a line the base."""
    axes, scorer = picture.add_subplot(), report["headline"]
    base = report["base"]["scores"][scorer]["score"]
    axes.axvline(base["mean"], color=GREY, linewidth=1, linestyle="--")
    if base["low"] is not None:
        axes.axvspan(base["low"], base["high"], color=GREY, alpha=0.12, linewidth=0)
    names = [r["method"] for r in report["methods"]]
    for place, r in enumerate(report["methods"]):
        own = r["scores"][scorer]
        axes.errorbar(own["score"]["mean"], place, xerr=_error(own["score"]), fmt="o", color=COLOURS["one"],
                      markersize=5, elinewidth=1.4, capsize=3)  # fmt: skip
        axes.scatter(own["by_seed"], [place + 0.22] * len(own["by_seed"]), s=9, color=COLOURS["two"])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    _styled(axes, "Score on held-out prompts, 95 % interval (dashed: base; small: seeds)", "x")


def _draw_kl(picture: Picture, report: Mapping[str, Any]) -> None:
    """What the score cost in distance from the base."""
    axes, scorer = picture.add_subplot(), report["headline"]
    base, tones = report["base"]["scores"][scorer]["score"], list(COLOURS.values())
    points = [(BASE, 0.0, base, GREY)]
    for place, r in enumerate(report["methods"]):
        points.append((r["method"], r["kl"], r["scores"][scorer]["score"], tones[place % len(tones)]))
    for name, kl, figure, colour in points:
        axes.errorbar(kl, figure["mean"], yerr=_error(figure), fmt="o", color=colour, markersize=5, elinewidth=1.2,
                      label=name)  # fmt: skip
    axes.legend(fontsize=8, labelcolor=INK, frameon=False, handlelength=1)
    axes.set_xlabel("KL to the base, nats an answer", fontsize=8, color=INK)
    axes.set_ylabel("score", fontsize=8, color=INK)
    _styled(axes, "Score against KL")


def _draw_cost(picture: Picture, report: Mapping[str, Any]) -> None:
    """Seconds, with the drawing of shared answers stacked on, and peak memory."""
    left, right = picture.subplots(1, 2)
    names = [r["method"] for r in report["methods"]]
    seconds = [r["seconds"] for r in report["methods"]]
    left.barh(names, seconds, color=COLOURS["one"])
    left.barh(names, [r["drawing_seconds"] or 0.0 for r in report["methods"]], left=seconds, color=HAIR)
    right.barh(names, [(r["peak_bytes"] or 0) / 2**30 for r in report["methods"]], color=COLOURS["three"])
    for axes, title in ((left, "Seconds (pale: drawing)"), (right, "Peak memory, GiB")):
        axes.invert_yaxis()
        _styled(axes, title, "x")


def write_report(
    out: Path, settings: Mapping[str, Any], methods: Sequence[str], seeds: Sequence[int], failed: Mapping[str, str]
) -> dict[str, Any]:
    """Writes ``results.json``, ``table.md`` and the pictures; returns what the first holds."""
    report = report_of(out, settings, methods, seeds, failed)
    write_json(out / "results.json", report)
    write_atomic(out / "table.md", markdown(report))
    for name, image in pictures(report).items():
        write_atomic(out / name, image)
    return report
