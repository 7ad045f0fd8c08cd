"""docs/monitors.md tells of every monitor, and every threshold has a reader and a place there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trueup.config import OnAlarm
from trueup.monitors import MONITORS
from trueup.settings import KEYS
from trueup.thresholds import MonitorConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "monitors.md").read_text()
SECTIONS = dict(re.findall(r"^### `(\w+)`$\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))
ACTIONS = {"off", "act_on", "actions", "lr_factor", "kl_factor", "clear_after"}
SHARED = {"window", "start"}  # of nearly every monitor


def test_every_monitor_has_a_heading_and_no_heading_is_left_over() -> None:
    assert set(SECTIONS) == set(MONITORS)


@pytest.mark.parametrize("name", MONITORS)
def test_a_monitor_is_defined_with_threshold_cause_and_action(name: str) -> None:
    text = SECTIONS[name]
    assert len(text.split("- Threshold:")[0].strip()) > 20, "no definition"
    for word in ("Threshold", "Cause", "Action"):
        assert re.search(rf"^- {word}: \S+", text, re.MULTILINE), word


@pytest.mark.parametrize("field", sorted(set(MonitorConfig.model_fields) - ACTIONS - SHARED))
def test_every_threshold_is_read_and_told(field: str) -> None:
    sources = "".join(p.read_text() for p in (ROOT / "src" / "trueup" / "monitors").glob("*.py"))
    assert re.search(rf"\blimits\.{field}\b", sources), "no monitor reads it"
    lines = [text.split("- Threshold:")[1].split("- Cause:")[0] for text in SECTIONS.values()]
    assert any(f"`{field}`" in line for line in lines), "no monitor's threshold names it"


def test_settings_and_actions_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`((?:train|policy|sample|online|eval|save|monitors)\.[a-z_]+)`", TEXT))
    assert named <= set(KEYS)
    assert all(f"`{value}`" in TEXT for value in OnAlarm.__args__)  # type: ignore[attr-defined]
    assert all(f"`monitors.{name}`" in TEXT for name in ACTIONS)
