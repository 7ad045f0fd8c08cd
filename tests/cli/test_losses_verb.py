"""`trueup losses`: every loss is listed and explained, with a number computed there and then."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from trueup.cli.losses import ALL, COLUMNS, list_losses, show_loss
from trueup.cli.main import run
from trueup.errors import ConfigError
from trueup.losses import POLICY, PREFERENCE, REWARD, SUPERVISED, UNPAIRED

Captured = pytest.CaptureFixture[str]


def test_every_registered_loss_has_one_line(capsys: Captured) -> None:
    assert run(["losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(ALL)
    assert set(ALL) == {*PREFERENCE, *UNPAIRED, *REWARD, *SUPERVISED, *POLICY}
    for line in lines:
        loss = ALL[line.split()[0]]
        name, rows, reference, title, source = (cell.strip() for cell in line.split("  ") if cell.strip())
        assert (rows, title, source) == (loss.eats.__name__, loss.title, loss.source), name
        assert reference == ("needed" if loss.reference else "-"), name


def test_a_terminal_gets_a_table() -> None:
    out = io.StringIO()
    list_losses(console=Console(file=out, force_terminal=True, width=200, color_system=None))
    lines = [line for line in out.getvalue().splitlines() if line.strip()]
    assert lines[0].split() == list(COLUMNS)
    assert {line.split()[0] for line in lines[2:]} >= set(ALL)


def test_the_list_as_json_tells_everything(capsys: Captured) -> None:
    list_losses(as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in facts] == list(ALL)
    assert all(math.isfinite(value) for f in facts for value in f["example"]["value"])


# the golden numbers of tests/losses, reached through the command line; πc/|yc| = −2, πr/|yr| = −1.5
SHOWN = [
    ("dpo", [0.620957047789532]),
    ("ipo", [12.25]),
    ("orpo", [2.0 + 0.104205780792713]),
    ("simpo", [1.70141327798275]),
    ("cpo", [math.log1p(math.exp(-0.3)) + 2.0]),
    ("kto", [0.482507142333610, 0.480010659844418]),
    ("reward", [0.403186048885458]),
    ("sft", [6.5]),
]


@pytest.mark.parametrize(("name", "values"), SHOWN)
def test_the_worked_example_is_computed(name: str, values: list[float], capsys: Captured) -> None:
    show_loss(name, as_json=True)
    assert json.loads(capsys.readouterr().out)["example"]["value"] == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("name", list(ALL))
def test_a_loss_is_explained_in_words(name: str, capsys: Captured) -> None:
    assert run(["losses", name]) == 0
    text, loss = capsys.readouterr().out, ALL[name]
    for part in (loss.title, loss.equation, loss.source, loss.differences, *sorted(loss.options)):
        assert part in text
    for argument, default in loss.arguments.items():
        assert f"{argument} = {default}" in text


def test_an_unknown_loss_names_the_nearest_or_all() -> None:
    with pytest.raises(ConfigError, match=r"'simp' is no loss \(did you mean simpo"):
        show_loss("simp")
    with pytest.raises(ConfigError, match=r"there are sft, reward, dpo, .*apo_zero_unpaired"):
        show_loss("12345")
