"""Simulated coverage of the printed intervals: the record, its table in the docs, and a fresh look at a few cells."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "coverage.json"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_interval_of_the_record_lies_within_the_band_and_stands_in_the_docs(benchmark: ModuleType) -> None:
    record = json.loads(RESULTS.read_text())
    assert {(r["interval"], r["n"]) for r in record["rows"]} == {
        (c, n) for c in benchmark.CASES for n in benchmark.SIZES
    }
    assert all(0.935 <= r["covered"] <= 0.965 and r["simulations"] >= 2000 for r in record["rows"])
    assert benchmark.table(record["rows"]) in (ROOT / "docs" / "evaluation.md").read_text()


@pytest.mark.parametrize(
    "name", ["win_rate, two orders, 4 rows a prompt", "length_controlled, soft", "rate_models, middle", "cohen_kappa"]
)
def test_the_code_still_covers_as_recorded(benchmark: ModuleType, name: str) -> None:
    """400 (200) simulations: a share of 0.95 falls below 0.905 (0.895) less than once in 2,000 times."""
    row = benchmark.measure(name, 50, 400)
    assert row["covered"] > (0.895 if benchmark.CASES[name].costly else 0.905)
    assert row["covered"] < 0.996
