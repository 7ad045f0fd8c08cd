"""The sentence says no more than the figures carry."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import figures, write_run

from trueup.reports.read import read_view
from trueup.reports.result import headline
from trueup.runs.folder import write_json

TIED = figures(rewards__accuracy=(0.5, 0.35, 0.65), rewards__margin=(0.0, 0.0, 0.0), loss=(0.69, 0.69, 0.69))


def found(path: Path, **more):
    return headline(read_view(write_run(path / "run", **more)))


def test_intervals_that_do_not_touch_are_a_difference_in_the_wanted_direction(tmp_path: Path) -> None:
    better = found(tmp_path / "a", before=figures(score=(0.2, 0.1, 0.3)), after=figures(score=(0.6, 0.5, 0.7)))
    assert better.verdict == "better"
    assert better.sentence == (
        "The mean score of answers to 40 held-out prompts is 0.60 (95\u202f% interval 0.50 to 0.70) after training, "
        "against 0.20 (95\u202f% interval 0.10 to 0.30) before."
    )
    assert (
        found(tmp_path / "b", before=figures(loss=(2.0, 1.9, 2.1)), after=figures(loss=(3.0, 2.9, 3.1))).verdict
        == "worse"
    )
    assert (
        found(tmp_path / "c", before=figures(loss=(3.0, 2.9, 3.1)), after=figures(loss=(2.0, 1.9, 2.1))).verdict
        == "better"
    )


def test_intervals_that_overlap_show_no_difference(tmp_path: Path) -> None:
    open_ = found(tmp_path, before=figures(score=(0.2, 0.1, 0.5)), after=figures(score=(0.6, 0.4, 0.8)))
    assert open_.verdict == "open" and "overlap" in open_.detail


def test_pairs_that_all_began_as_ties_are_compared_with_one_half(tmp_path: Path) -> None:
    better = found(tmp_path / "a", before=TIED, after=figures(rewards__accuracy=(0.7, 0.55, 0.82)))
    assert better.verdict == "better" and "50\u202f% at the start" in better.sentence
    open_ = found(tmp_path / "b", before=TIED, after=figures(rewards__accuracy=(0.6, 0.45, 0.74)))
    assert open_.verdict == "open" and "includes 50" in open_.detail
    worse = found(tmp_path / "c", before=TIED, after=figures(rewards__accuracy=(0.3, 0.18, 0.45)))
    assert worse.verdict == "worse"


def test_one_prompt_has_no_interval_and_nothing_follows(tmp_path: Path) -> None:
    one = found(tmp_path, before=figures(score=(0.2, None, None)), after=figures(score=(0.9, None, None)))
    assert one.verdict == "open" and "no interval" in one.sentence


def test_a_checkpoint_chosen_by_the_same_rows_is_owned_up_to(tmp_path: Path) -> None:
    def metrics(step: int) -> dict[str, float]:
        return {"loss": 1.0, "score": 0.5, **({"eval/score": 0.1 * step} if step % 4 == 0 else {})}

    chosen = found(
        tmp_path, metrics=metrics, settings={"eval": {"every": 4}},
        before=figures(score=(0.2, 0.1, 0.3)), after=figures(score=(0.9, 0.8, 1.0)),
    )  # fmt: skip
    assert "best of 3 evaluations" in chosen.detail


def test_no_rows_no_end_no_figures(tmp_path: Path) -> None:
    assert "not trained on" in found(tmp_path / "a", held_out=0, before={}, after={}).sentence
    assert "not finished" in found(tmp_path / "b", finished=False, before=TIED).sentence
    assert "no figures" in found(tmp_path / "c").sentence


@pytest.mark.parametrize(
    ("difference", "p_value", "verdict"),
    [([0.5, 0.2, 0.8], 0.01, "better"), ([0.5, 0.2, 0.8], 0.08, "perhaps"), ([0.1, -0.2, 0.4], 0.5, "open"),
     ([-0.5, -0.8, -0.2], 0.01, "worse"), ([0.5, None, None], 1.0, "open")],
)  # fmt: skip
def test_the_demo_is_judged_by_its_paired_interval_and_its_sign_test(
    tmp_path: Path, difference: list[float | None], p_value: float, verdict: str
) -> None:
    write_run(tmp_path / "run", after=figures(loss=(0.6, 0.5, 0.7)))
    told = {"n": 40, "difference": difference, "better": 25, "worse": 10, "p_value": p_value}
    write_json(tmp_path / "results.json", {"held_out_prompts": told})
    result = headline(read_view(tmp_path))
    assert result.verdict == verdict
    if difference[0] == -0.5:
        assert "0.50 lower" in result.sentence and "0.20 to 0.80" in result.sentence
