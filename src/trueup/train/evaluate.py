"""Figures over held-out rows, each with a 95 % interval that respects rows sharing a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

from trueup.config import TrainConfig
from trueup.ops.stats import Interval, bootstrap_mean, wilson
from trueup.train.loop import Objective, RowIn, split

RowT = TypeVar("RowT")


class Evaluable(Objective[RowIn], Protocol[RowIn]):
    """An objective that can also tell its figures row by row."""

    def figures(self, rows: Sequence[RowIn]) -> dict[str, torch.Tensor]:
        """``[B]`` by name; ``weight`` (tokens), if present, weighs the loss."""
        ...


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95 % interval over ``n`` rows; the interval of a single prompt is nan: it cannot be known."""

    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | None]:
        """As plain numbers; an unknown end of the interval is None."""
        return {name: None if math.isnan(value) and name != "mean" else value for name, value in asdict(self).items()}


def row_figures(objective: Evaluable[RowT], rows: Sequence[RowT], config: TrainConfig) -> dict[str, np.ndarray]:
    """Figures of every row, in the order of ``rows``, ``[n]`` each."""
    pieces: list[tuple[list[int], dict[str, torch.Tensor]]] = []
    for start in range(0, len(rows), 256):
        block = rows[start : start + 256]
        parts = split(objective, block, config, None)
        pieces += [([start + i for i in part], objective.figures([block[i] for i in part])) for part in parts]
    arrays: dict[str, np.ndarray] = {}
    for places, figures in pieces:
        for name, values in figures.items():
            arrays.setdefault(name, np.full(len(rows), np.nan))[places] = values.double().numpy()
    return arrays


def summarise(arrays: Mapping[str, np.ndarray], clusters: Sequence[str], seed: int = 0) -> dict[str, Figure]:
    """Mean and interval of each figure; ``clusters`` names each row's prompt."""
    weight = arrays.get("weight")
    return {
        name: Figure(*_interval(name, values, clusters, weight, seed), n=len(values))
        for name, values in arrays.items()
        if name != "weight"
    }


def _interval(name: str, values: np.ndarray, clusters: Sequence[str], weight: np.ndarray | None, seed: int) -> Interval:
    """Wilson's for a rate over independent rows (which stays within 0 and 1), else the cluster bootstrap."""
    if name.endswith("accuracy"):
        if len(set(clusters)) == len(values):
            return wilson(float(values.sum()), len(values))
        mean, low, high = bootstrap_mean(values, clusters=clusters, seed=seed)
        return Interval(mean, max(0.0, low), min(1.0, high))
    return bootstrap_mean(values, clusters=clusters, weights=weight, seed=seed)
