"""The demo's whole road, with a tiny model in place of the bundled one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trueup.errors import RunError
from trueup.feedback.base import Answered
from trueup.recipes.demo import demo, held_out_prompts, plain_and_short


def test_the_road_ends_with_every_file_and_honest_figures(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = demo(out, model=str(tiny))
    kept = json.loads((out / "results.json").read_text())
    assert kept == json.loads(json.dumps(result.to_json()))
    told, prompts = kept["held_out_prompts"], held_out_prompts()
    assert told["n"] == len(prompts) == kept["training"]["after"]["loss"]["n"]
    mean, low, high = told["difference"]
    assert low <= mean <= high
    assert mean == pytest.approx(told["after_score"][0] - told["before_score"][0])
    assert told["better"] + told["worse"] <= told["n"]
    assert sum(map(int, kept["pairs"]["pairs_a_prompt"].values())) == kept["pairs"]["prompts"] == 162
    assert kept["pairs"]["rows"] == len((out / "pairs.jsonl").read_text().splitlines())
    assert (out / "run" / "model" / "config.json").exists()
    with pytest.raises(RunError, match="exists already"):
        demo(out, model=str(tiny))


@pytest.mark.parametrize(
    ("text", "truncated", "score"),
    [("one two three four", False, 1.0), ("one two three four", True, 0.0), ("no", False, 0.0),
     ("Great question! It is blue.", False, 0.5), ("- a b\n- c d", False, 0.0), ("w " * 80, False, 0.0)],
)  # fmt: skip
def test_the_rule_by_hand(text: str, truncated: bool, score: float) -> None:
    assert plain_and_short(Answered(id="1", prompt="p", answer=text, truncated=truncated)) == pytest.approx(score)
