"""A tiny model and small data files, made once."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from trueup.models.tiny import save_tiny

WORDS = ["red", "blue", "green", "one", "two", "three", "fish", "bird", "stone", "river", "apple"]


def _lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data files by family: pairs, unpaired, sft."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("data")

    def text(k: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(k))

    pairs = [{"prompt": text(4), "chosen": text(3), "rejected": text(5)} for _ in range(30)]
    unpaired = [{"prompt": text(4), "completion": text(3), "label": i % 3 == 0} for i in range(30)]
    return {
        "pairs": _lines(folder / "pairs.jsonl", pairs),
        "unpaired": _lines(folder / "unpaired.jsonl", unpaired),
        "sft": _lines(folder / "sft.jsonl", [{"prompt": text(4), "completion": text(3)} for _ in range(30)]),
    }
