"""What is drawn: every coordinate finite and inside, gaps where values are missing, labels that do not touch."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import figures, policy_metrics, write_run

from trueup.reports.charts import (
    Frontier,
    LineChart,
    Series,
    Spread,
    curve_groups,
    drawable,
    file_key,
    frontier,
    held_out,
)
from trueup.reports.pictures import png_of
from trueup.reports.points import columns_of, frontier_svg, spread_svg
from trueup.reports.read import read_view
from trueup.reports.strips import Mark, interval_strip, lane, strip_range
from trueup.reports.svg import HEIGHT, WIDTH, Frame, apart, line_svg, path_of

ANY = st.floats(allow_nan=True, allow_infinity=True).map(drawable)
FRAME = Frame((0, 10), (0, 1), 400)


def numbers_of(svg: str) -> list[float]:
    """Every coordinate in the markup."""
    found = re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy|r|width|height|d)="([^"]*)"', svg)
    words = [w for f in found for w in re.split(r"[MLlmhz ]+", f) if w]
    return [float(w.rstrip("%")) for w in words]


@given(st.lists(ANY, min_size=1, max_size=30))
def test_whatever_the_values_the_picture_is_finite_and_in_its_frame(values: list[float]) -> None:
    x = list(range(1, len(values) + 1))
    ends = [(v - 1, v + 1) if math.isfinite(v) else None for v in values]
    svg = line_svg(LineChart("k", "t", "u", [Series("a", "one", x, values), Series("b", "two", x, values, ends)]))
    found = numbers_of(svg)
    assert found and all(math.isfinite(v) for v in found)
    assert all(-60 <= v <= max(WIDTH, HEIGHT) + 20 for v in found)


def test_a_path_breaks_where_a_value_is_not_finite() -> None:
    assert path_of(FRAME, [0, 1, 2, 3], [0.0, 1.0, math.nan, 0.5]).count("M") == 2
    assert path_of(FRAME, [0, 5, 10], [0.0, 0.5, 1.0]) == "M46.0 180.0L223.0 96.0L400.0 12.0"


def test_a_value_without_neighbours_is_a_dot_and_lost_ones_are_crosses() -> None:
    svg = line_svg(LineChart("k", "t", "u", [Series("", "one", [1, 2, 3], [math.nan, 0.5, math.inf])]))
    assert svg.count('<circle class="dot one"') == 1 and svg.count('class="lost"') == 2
    assert line_svg(LineChart("k", "t", "", [Series("", "one", [1], [0.5])])).count('<circle class="dot one"') == 1


@given(st.lists(st.floats(16, 178), max_size=8))
def test_labels_are_apart_and_in_order(places: list[float]) -> None:
    found = apart(sorted(places), 16, 178)
    assert all(b - a >= 13.5 - 1e-6 for a, b in pairwise(found))
    assert all(16 - 1e-6 <= f <= 178 + 1e-6 for f in found)


def test_text_in_a_chart_is_text() -> None:
    evil = '"><script>alert(1)</script>'
    chart = LineChart("k", evil, evil, [Series(evil, "one", [1, 2], [1.0, 2.0])])
    assert "<script" not in line_svg(chart)
    assert "<script" not in spread_svg(Spread("k", evil, evil, {evil: [1.0, 2.0]}))
    assert "<script" not in frontier_svg(
        Frontier("k", evil, evil, evil, {evil: [(0, 1, 1), (1, 2, 2)], "b": [(0, 1, 1)]})
    )


def test_held_out_points_are_before_during_and_after(tmp_path: Path) -> None:
    def metrics(step: int) -> dict[str, float]:
        ends = {"eval/score": 0.4, "eval/score/low": 0.3, "eval/score/high": 0.5}
        return {"loss": 1.0, "score": 0.5, **(ends if step == 6 else {})}

    run = write_run(
        tmp_path / "run", metrics=metrics, before=figures(score=(0.2, 0.1, 0.3)), after=figures(score=(0.6, None, None))
    )
    assert held_out(read_view(run), "score") == ([0.0, 6.0, 12.0], [0.2, 0.4, 0.6], [(0.1, 0.3), (0.3, 0.5), None])
    assert held_out(read_view(run), "loss") is None


def test_every_logged_metric_is_drawn_once_also_unknown_ones(tmp_path: Path) -> None:
    view = read_view(write_run(tmp_path / "run", metrics=lambda s: {**policy_metrics(s), "brand/new": float(s)}))
    keys = [c.key for g in curve_groups(view) for c in g.charts]
    assert len(keys) == len(set(keys))
    assert {"loss", "score", "kl", "entropy", "length", "truncated", "grad-norm", "brand-new", "seconds"} <= set(keys)
    loss = next(c for g in curve_groups(view) for c in g.charts if c.key == "loss")
    assert loss.notes[-1] == "× 1 value is not finite"


def test_the_frontier_is_score_by_kl_step_by_step(tmp_path: Path) -> None:
    found = frontier(read_view(write_run(tmp_path / "run", metrics=policy_metrics, steps=5)))
    assert found is not None and found.points[""][1] == pytest.approx((0.4, 0.2, 2.0))
    assert frontier(read_view(write_run(tmp_path / "dpo"))) is None


def test_columns_of_whole_numbers_stand_on_them() -> None:
    whole = columns_of([0.0, 1.0, 1.0, 3.0])
    assert whole.counts([0.0, 1.0, 1.0, 3.0]).tolist() == [1, 2, 0, 1] and whole.words(1) == "1"
    broad = columns_of([0.03, 0.5, 0.97])
    assert broad.counts([0.03, 0.5, 0.97]).sum() == 3 and " to " in broad.words(0)


def test_strips_keep_their_order_and_never_leave_the_cell() -> None:
    marks = [Mark(0.2, 0.1, 0.3, "grey"), Mark(0.6, None, None, "one")]
    svg = interval_strip(marks, strip_range(marks, [0.5]), 0.5)
    assert svg.count("whisker") == 1 and "ring" in svg and 'class="mark"' in svg
    assert all(0 <= v <= 100 for v in numbers_of(svg))
    bars = lane([(3, 9, "alarm"), (500, 2, "warn")], 10)
    assert all(0 <= v <= 100 for v in numbers_of(bars))


def test_file_names_hold_nothing_but_letters_digits_and_dashes() -> None:
    assert file_key("../../etc/passwd\x00") == "etc-passwd" and file_key("é/$") == "chart"


@pytest.mark.parametrize(
    "chart",
    [
        LineChart("k", "$x_{$", "u", [Series("a", "one", [1, 2, 3], [1, math.nan, math.inf], smooth=[1, 1, 1]),
                                     Series("", "two", [1, 2], [1, 2], [(0, 2), None])], marks=[(2, "alarm")]),
        LineChart("k", "t", "u", [Series("", "one", [1], [math.nan])]),
        Frontier("k", "t", "x", "y", {"a$": [(0, 1, 1), (1, 1, 2)], "b": [(0, 2, 1)]}),
        Spread("k", "t", "u", {"before": [1, 2, 2], "after": [3.0]}),
    ],
)  # fmt: skip
def test_a_picture_is_a_png(chart: LineChart | Frontier | Spread) -> None:
    assert png_of(chart).startswith(b"\x89PNG\r\n")
