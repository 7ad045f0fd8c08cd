"""The demo: DPO of the bundled 135M chat model on the bundled pairs, in minutes on two cores."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from trueup.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from trueup.recipes.session import Listener
from trueup.recipes.train import TrainResult, train


def demo_config() -> RunConfig:
    """The demo's settings; ``RUN/config.yaml`` holds them too."""
    folder = files("trueup") / "demo"
    return RunConfig(
        method="dpo",
        model=ModelConfig(path="bundled:smollm2-135m-instruct"),
        data=DataConfig(path=str(folder / "train.jsonl"), eval_path=str(folder / "held_out.jsonl"), max_length=512),
        loss={"beta": 0.1},
        train=TrainConfig(lr=2e-5, batch_size=8, epochs=1.5, seed=0),
    )


def fresh_folder(parent: Path) -> Path:
    """The first of demo-1, demo-2 ... that is not there."""
    number = 1
    while (parent / f"demo-{number}").exists():
        number += 1
    return parent / f"demo-{number}"


def demo(out: Path, listeners: tuple[Listener, ...] = ()) -> TrainResult:
    """Runs the demo into ``out``."""
    return train(demo_config(), out, listeners)
