"""Several runs: names that tell them apart, no ranking that the figures do not carry, the settings that differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import figures, policy_metrics, write_run

from trueup.reports.comparison import comparison_charts, comparison_of, named_apart, same_rows
from trueup.reports.read import RunView, read_view
from trueup.reports.settings_table import differing, settings_of


def views(*paths: Path) -> list[RunView]:
    return named_apart([read_view(p) for p in paths])


def scored(path: Path, mean: float, half: float | None = 0.05, **more) -> Path:
    ends = (None, None) if half is None else (mean - half, mean + half)
    return write_run(path, after=figures(score=(mean, *ends)), **more)


def result(*runs: RunView):
    return comparison_of(runs, comparison_charts(runs), []).headline


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    found = views(
        *(write_run(tmp_path / name / "run", steps=1) for name in ("a", "b")), write_run(tmp_path / "c", steps=1)
    )
    assert [v.name for v in found] == ["a/run", "b/run", "c"]
    same = views(tmp_path / "c", tmp_path / "c")
    assert len({v.name for v in same}) == 2


def test_the_best_is_named_only_where_intervals_and_rows_allow_it(tmp_path: Path) -> None:
    a, b = scored(tmp_path / "a", 0.2), scored(tmp_path / "b", 0.8)
    ahead = result(*views(a, b))
    assert ahead.verdict == "better" and "highest in b" in ahead.sentence
    near = result(*views(b, scored(tmp_path / "c", 0.75)))
    assert near.verdict == "open" and "overlap" in near.detail
    other = result(*views(a, scored(tmp_path / "d", 0.9, tokens="bb")))
    assert other.verdict == "open" and "no ranking" in other.detail
    assert "One prompt" in result(*views(a, scored(tmp_path / "e", 0.9, None))).detail
    assert "equal" in result(*views(b, scored(tmp_path / "f", 0.8))).sentence


def test_losses_of_different_methods_are_not_compared(tmp_path: Path) -> None:
    after = figures(loss=(0.5, 0.4, 0.6))
    runs = views(write_run(tmp_path / "a", after=after), write_run(tmp_path / "b", method="ipo", after=after))
    assert result(*runs).verdict == "unknown"
    lower = write_run(tmp_path / "c", after=figures(loss=(0.2, 0.1, 0.3)))
    assert "lowest in c" in result(*views(tmp_path / "a", lower)).sentence


def test_whether_the_held_out_rows_are_the_same(tmp_path: Path) -> None:
    a, b, c = (
        write_run(tmp_path / n, tokens=t, held_out=h) for n, t, h in (("a", "x", 9), ("b", "x", 9), ("c", "y", 9))
    )
    d = write_run(tmp_path / "d", tokens="x", held_out=5)
    assert same_rows(views(a, b)) is True
    assert same_rows(views(a, c)) is None
    assert same_rows(views(a, d)) is False


def test_settings_that_differ_and_those_that_most_share(tmp_path: Path) -> None:
    configs = [read_view(write_run(tmp_path / str(i), settings={"train": {"lr": lr}})).config
               for i, lr in enumerate((1e-5, 1e-5, 3e-5))]  # fmt: skip
    (difference,) = differing(configs)
    assert difference.name == "train.lr"
    assert list(difference.values) == [("1e−05", True), ("1e−05", True), ("3e−05", False)]
    changed = [s.name for s in settings_of(configs[0]) if s.changed]
    assert changed == ["method", "model.path", "data.path", "train.lr"]


def test_charts_hold_every_run_on_the_same_axes(tmp_path: Path) -> None:
    runs = views(
        write_run(tmp_path / "a", metrics=policy_metrics), write_run(tmp_path / "b", metrics=policy_metrics, steps=40),
        write_run(tmp_path / "c"),
    )  # fmt: skip
    found = comparison_charts(runs)
    charts = {c.key: c for g in found.groups for c in g.charts}
    assert [s.label for s in charts["loss"].series] == ["a", "b", "c"]
    assert [s.label for s in charts["kl"].series] == ["a", "b"]
    assert "rewards-accuracy" not in charts  # one run alone has it
    assert len({s.tone for s in charts["loss"].series}) == 3
    assert found.frontier is not None and list(found.frontier.points) == ["a", "b"]


@pytest.mark.parametrize("count", [2, 3])
def test_answers_to_prompts_that_all_runs_kept(tmp_path: Path, count: int) -> None:
    paths = []
    for i in range(count):
        lines = [{"step": s, "row": "r", "prompt": "why", "answer": f"it is {i} {s}", "ended": True} for s in (0, 12)]
        paths.append(write_run(tmp_path / str(i), samples=[*lines, {**lines[1], "row": "x", "prompt": f"only {i}"}]))
    runs = views(*paths)
    (sample,) = comparison_of(runs, comparison_charts(runs), []).samples
    assert sample.question == "why" and len(sample.sides) == count
    assert [side.title for side in sample.sides] == [str(i) for i in range(count)]
    marked = any(p.kind == "other" for side in sample.sides for p in side.pieces)
    assert marked == (count == 2)
