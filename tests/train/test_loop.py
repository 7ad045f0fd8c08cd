"""The loop's three rules, on a least-squares objective small enough to check by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from trueup.config import TrainConfig
from trueup.errors import ResourceError, TrainingError
from trueup.train.loop import LoopState, Plan, Share, optimise
from trueup.train.optim import Optimizer, learning_rate

Row = tuple[str, float, float]  # id, x, y


class LeastSquares:
    """loss = mean over rows of (w·x − y)²; a row longer than ``room`` rows at once runs out of memory."""

    def __init__(self, dtype: torch.dtype = torch.float64, room: int | None = None) -> None:
        self.model = torch.nn.Linear(1, 1, dtype=dtype)
        with torch.no_grad():
            self.model.weight.fill_(0.5)
            self.model.bias.fill_(0.0)
        self.room, self.calls = room, []

    def length(self, row: Row) -> int:
        return 1 + int(abs(row[1]))

    def identity(self, row: Row) -> str:
        return row[0]

    def begin(self, step: int, batch: Sequence[Row], parts: Sequence[Sequence[int]]) -> int:
        return len(batch)

    def share(self, batch: Sequence[Row], part: Sequence[int], begun: int) -> Share:
        self.calls.append(len(part))
        if self.room is not None and len(part) > self.room:
            raise torch.OutOfMemoryError("too many rows")
        x = torch.tensor([[batch[i][1]] for i in part], dtype=self.model.weight.dtype)
        y = torch.tensor([[batch[i][2]] for i in part], dtype=self.model.weight.dtype)
        squares = (self.model(x) - y).square()
        return Share(squares.sum() / begun, {"error": (float(squares.detach().sum()), len(part))})


def rows(count: int = 8) -> list[Row]:
    return [(f"r{i}", float(i % 5) - 2.0, 0.3 * i) for i in range(count)]


def run(objective: LeastSquares, steps: int = 4, state: LoopState | None = None, data=None, **changes):
    config = TrainConfig(lr=0.1, warmup=0, schedule="constant", **changes)
    optimizer = Optimizer(objective.model.named_parameters(), config)
    batch = data or rows()
    plan = Plan(steps, lambda _step: batch, 0.1)
    return list(optimise(objective, optimizer, plan, config, state or LoopState()))


def test_cutting_a_batch_changes_nothing() -> None:
    whole, cut = LeastSquares(), LeastSquares()
    a = run(whole, micro_batch=8)
    b = run(cut, micro_batch=1)
    assert whole.calls == [8] * 4
    assert cut.calls == [1] * 32
    for x, y in zip(a, b, strict=True):
        assert x.metrics["loss"] == pytest.approx(y.metrics["loss"], rel=1e-12)
        assert x.metrics["grad_norm"] == pytest.approx(y.metrics["grad_norm"], rel=1e-12)
        assert x.metrics["error"] == pytest.approx(y.metrics["error"], rel=1e-12)
    torch.testing.assert_close(whole.model.weight, cut.model.weight, rtol=1e-12, atol=0)


def test_first_step_by_hand() -> None:
    objective = LeastSquares()
    step = run(objective, steps=1, data=[("a", 2.0, 0.0), ("b", 0.0, 1.0)])[0]
    # (0.5*2 - 0)^2 = 1 and (0 - 1)^2 = 1; mean 1. d/dw = mean(2*1*2, 0) = 2; d/db = mean(2*1, -2) = 0
    assert step.metrics["loss"] == pytest.approx(1.0)
    assert step.metrics["grad_norm"] == pytest.approx(2.0)
    # AdamW's first step moves each weight by lr * sign(gradient) (up to eps)
    assert objective.model.weight.item() == pytest.approx(0.4, abs=1e-6)
    assert objective.model.bias.item() == pytest.approx(0.0, abs=1e-6)


def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step() -> None:
    small, told = LeastSquares(room=3), LeastSquares()
    state = LoopState()
    a = run(small, state=state, micro_batch=8)
    b = run(told, micro_batch=2)
    assert small.calls[:3] == [8, 4, 2]
    assert state.cap == 2
    assert [s.metrics["loss"] for s in a] == [s.metrics["loss"] for s in b]
    assert torch.equal(small.model.weight, told.model.weight)


def test_out_of_memory_with_one_row_is_the_end() -> None:
    objective = LeastSquares(room=0)
    with pytest.raises(ResourceError, match="single row"):
        run(objective)
    assert objective.model.weight.item() == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_step_changes_nothing_and_is_logged_as_such(bad: float) -> None:
    objective = LeastSquares()
    config = TrainConfig(lr=0.1, warmup=0, schedule="constant")
    optimizer = Optimizer(objective.model.named_parameters(), config)
    good, poisoned = rows(), [*rows()[:-1], ("poison", 1.0, bad)]
    state = LoopState()
    steps = optimise(objective, optimizer, Plan(3, lambda s: poisoned if s == 2 else good, 0.1), config, state)
    next(steps)
    weights = [p.detach().clone() for p in objective.model.parameters()]
    moments = {k: v.clone() for k, v in optimizer.moments().items()}
    step = next(steps)
    assert step.skipped
    assert not math.isfinite(step.metrics["loss"])
    assert "poison" in step.rows
    assert all(torch.equal(a, b) for a, b in zip(weights, objective.model.parameters(), strict=True))
    assert all(torch.equal(moments[k], v) for k, v in optimizer.moments().items())
    assert not next(steps).skipped
    assert state.nonfinite == 0


def test_the_third_non_finite_step_in_a_row_stops_the_run() -> None:
    objective = LeastSquares()
    seen = []
    with pytest.raises(TrainingError, match=r"poison.*Lower train\.lr"):
        config = TrainConfig(lr=0.1)
        optimizer = Optimizer(objective.model.named_parameters(), config)
        for step in optimise(
            objective, optimizer, Plan(9, lambda _s: [("poison", 1.0, math.nan)], 0.1), config, LoopState()
        ):
            seen.append(step)  # noqa: PERF402  # the loop ends by an error; what came before counts
    assert [s.skipped for s in seen] == [True] * 3


def test_gradients_are_clipped_to_the_global_norm() -> None:
    objective = LeastSquares()
    config = TrainConfig(max_grad_norm=0.5)
    optimizer = Optimizer(objective.model.named_parameters(), config)
    objective.model.weight.grad = torch.tensor([[3.0]], dtype=torch.float64)
    objective.model.bias.grad = torch.tensor([4.0], dtype=torch.float64)
    assert optimizer.step(0.0) == pytest.approx(5.0)
    moments = optimizer.moments()
    assert float(moments["weight//exp_avg"]) == pytest.approx(0.3 * (1 - 0.9))
    assert float(moments["bias//exp_avg"]) == pytest.approx(0.4 * (1 - 0.9))


def test_bf16_keeps_masters_in_fp32_and_sums_gradients_there() -> None:
    layer = torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
    optimizer = Optimizer(layer.named_parameters(), TrainConfig(max_grad_norm=1e9))
    for value in (1.0, 2.0**-9):  # in bf16 1 + 2^-9 is 1
        layer(torch.eye(4, dtype=torch.bfloat16)).backward(torch.full((4, 4), value, dtype=torch.bfloat16))
    assert layer.weight.grad is None
    assert optimizer.gradients()[0].dtype == torch.float32
    assert torch.equal(optimizer.gradients()[0], torch.full((4, 4), 1 + 2.0**-9))
    before = optimizer.weights()["weight"].clone()
    optimizer.step(1e-4)
    after = optimizer.weights()["weight"]
    assert not torch.equal(before, after)
    assert torch.equal(layer.weight, after.bfloat16())


def test_saved_state_restores_exactly() -> None:
    torch.manual_seed(0)
    config = TrainConfig(weight_decay=0.1)

    def fresh():
        torch.manual_seed(1)
        layer = torch.nn.Linear(3, 3, dtype=torch.bfloat16)
        return layer, Optimizer(layer.named_parameters(), config)

    def go(layer, optimizer, k):
        layer(torch.randn(5, 3, generator=torch.Generator().manual_seed(k)).bfloat16()).square().sum().backward()
        optimizer.step(1e-2)

    layer, optimizer = fresh()
    for k in range(3):
        go(layer, optimizer, k)
    kept = (
        {k: v.clone() for k, v in optimizer.weights().items()},
        {k: v.clone() for k, v in optimizer.moments().items()},
    )
    go(layer, optimizer, 3)
    other, again = fresh()
    again.load(*kept)
    go(other, again, 3)
    assert torch.equal(layer.weight, other.weight)
    assert all(torch.equal(v, again.weights()[k]) for k, v in optimizer.weights().items())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]), ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
     ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447])],
)  # fmt: skip
def test_schedules(schedule: str, expected: list[float]) -> None:
    config = TrainConfig(warmup=2, schedule=schedule)
    assert [learning_rate(config, 1.0, s, 6) for s in range(1, 7)] == pytest.approx(expected, abs=1e-6)
