"""Figures over held-out rows: clusters, rates, and what cannot be known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trueup.ops.stats import wilson
from trueup.train.evaluate import summarise


def test_a_rate_over_independent_rows_has_wilsons_interval() -> None:
    figure = summarise({"accuracy": np.array([1.0, 1.0, 0.0, 1.0])}, list("abcd"))["accuracy"]
    assert (figure.mean, figure.low, figure.high) == pytest.approx(wilson(3, 4))
    assert figure.n == 4


def test_rows_of_one_prompt_make_one_cluster() -> None:
    values = {"margin": np.repeat([0.0, 1.0, 2.0, 3.0], 50)}
    alone = summarise(values, [str(i) for i in range(200)])["margin"]
    together = summarise(values, [str(i // 50) for i in range(200)])["margin"]
    assert alone.mean == together.mean == 1.5
    assert together.high - together.low > 5 * (alone.high - alone.low)


def test_weights_weigh() -> None:
    arrays = {"loss": np.array([1.0, 4.0]), "weight": np.array([3.0, 1.0])}
    assert summarise(arrays, list("ab"))["loss"].mean == pytest.approx(1.75)


def test_the_interval_of_a_single_prompt_is_unknown_and_json_says_so() -> None:
    figure = summarise({"margin": np.array([1.0, 2.0])}, ["a", "a"])["margin"]
    assert json.loads(json.dumps(figure.to_json(), allow_nan=False)) == {"mean": 1.5, "low": None, "high": None, "n": 2}
