"""The pages of the methods are what their script writes, and what they say is what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from trueup.losses import POLICY, PREFERENCE, REWARD, SUPERVISED, UNPAIRED
from trueup.losses.metrics import preference_metrics, unpaired_metrics
from trueup.losses.options import Options
from trueup.tensors import Labels, Pairs

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "methods"
LOSSES = {**SUPERVISED, **REWARD, **PREFERENCE, **UNPAIRED, **POLICY}
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "method_pages.py"))


def section(name: str, heading: str) -> dict[str, list[str]]:
    """The table under a heading: first column without its backticks -> the other cells."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    part = re.search(rf"^## {re.escape(heading)}.*?$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert part is not None, f"{name}.md has no section {heading}"
    lines = [line for line in part[1].splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first.strip("`"): rest for first, *rest in cells}


@pytest.mark.parametrize("name", LOSSES)
def test_the_page_is_what_the_script_writes(name: str) -> None:
    written = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert written == SCRIPT["page"](name), "run python scripts/method_pages.py"


def test_the_table_of_methods_is_what_the_script_writes() -> None:
    text = (PAGES / "README.md").read_text(encoding="utf-8")
    assert text == SCRIPT["index"](), "run python scripts/method_pages.py"
    assert re.findall(r"^\| \[(\w+)\]\(\1\.md\)", text, re.MULTILINE) == list(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_arguments_and_defaults_are_those_of_the_signature(name: str) -> None:
    told = {argument: cells[0] for argument, cells in section(name, "Arguments").items()}
    assert told == {argument: f"`{default}`" for argument, default in LOSSES[name].arguments.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_options_and_defaults_are_those_of_the_registry(name: str) -> None:
    told = {option: cells[0] for option, cells in section(name, "Options").items()}
    assert told == {option: f"`{getattr(Options(), option)}`" for option in LOSSES[name].options}


@pytest.mark.parametrize("name", LOSSES)
def test_every_row_of_a_page_says_something(name: str) -> None:
    for heading in ("Arguments", "Options", "Logged"):
        for first, cells in section(name, heading).items():
            assert all(cells), f"{name}: {first}"
            assert "{" not in "".join(cells), f"{name}: {first}"
    idea, use, avoid = SCRIPT["PROSE"][name]
    assert min(map(len, (idea, use, avoid))) > 15
    assert len({SCRIPT["PROSE"][n] for n in LOSSES}) == len(LOSSES)


def row(value: float) -> torch.Tensor:
    return torch.tensor([value])


def test_the_metrics_told_are_the_metrics_computed() -> None:
    one = torch.tensor([1])
    pairs = Pairs(policy_chosen=row(-1.0), policy_rejected=row(-2.0), chosen_length=one, rejected_length=one)
    common = {"loss", "grad_norm", "lr", "tokens"}
    assert set(section("dpo", "Logged")) == common | set(preference_metrics(pairs, beta=0.1))
    labels = Labels(policy=row(-1.0), desirable=torch.tensor([True]))
    assert set(section("apo_zero_unpaired", "Logged")) == common | set(unpaired_metrics(labels, beta=0.1))
    assert set(section("kto", "Logged")) == common | {"kl"} | set(unpaired_metrics(labels, beta=0.1))


# worked by hand with the default arguments where c = r = 0: log 2, 1, (1/2β)², −½ log ε(1−ε) − log 2 ...
STARTS = [("dpo", "0.6931"), ("hinge", "1"), ("ipo", "25"), ("nca", "1.386"), ("sppo", "50"), ("apo_down", "1"),
          ("discopop", "0.8466"), ("exo", "2.761"), ("sigmoid_norm", "0.6931")]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), STARTS)
def test_the_start_told_is_the_start_computed(name: str, value: str) -> None:
    assert section(name, "Logged")["loss"][0].startswith(f"{value} at the start")
