"""Every metric that docs/metrics.md defines has a name here, and every drawn one is defined."""

from __future__ import annotations

import re
from pathlib import Path

from trueup.reports.names import GROUPS, NAMES, name_of

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
DEFINED = set(re.findall(r"^### `([^`]+)`$", PAGE, re.MULTILINE))


def test_names_and_definitions_are_the_same_set() -> None:
    assert set(NAMES) == DEFINED


def test_every_panel_draws_what_has_a_name_and_none_twice() -> None:
    drawn = [m for g in GROUPS for p in g.panels for m in p.metrics]
    assert set(drawn) <= set(NAMES) and len(drawn) == len(set(drawn))


def test_an_unknown_metric_is_called_what_the_run_calls_it() -> None:
    assert name_of("brand/new").title == "brand/new"
    assert name_of("eval/loss") == NAMES["loss"] == name_of("loss")
    assert name_of("logratio") == NAMES["eval/logratio"]
