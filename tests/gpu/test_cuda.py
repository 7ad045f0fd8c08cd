"""What only a CUDA device can show: FlexAttention's kernels, runs and resumes, memory that really runs out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from trueup.config import DataConfig, ModelConfig, RunConfig, SaveConfig, TrainConfig
from trueup.models import attention
from trueup.models.layout import Branches, Layout, rows_layout, shared_layout
from trueup.models.load import load_causal_lm
from trueup.models.policy import Policy
from trueup.models.tiny import save_tiny
from trueup.recipes.build import build, machine_for
from trueup.recipes.prepare import prepare
from trueup.recipes.train import method_of, resume, train
from trueup.train.loop import LoopState, optimise

# the compiler warns about its own choices (TF32, few multiprocessors), which is no failure of ours
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
BUNDLED = "bundled:smollm2-135m-instruct"
WORDS = ("red", "blue", "green", "one", "two", "three", "fish", "bird", "stone", "river", "apple")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(params=["tiny", BUNDLED])
def source(request: pytest.FixtureRequest, tiny: Path) -> str:
    return str(tiny) if request.param == "tiny" else request.param


def random_groups(seed: int, count: int, longest: int) -> list[Branches]:
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        lengths = rng.integers(2, longest, 3)
        masks = [rng.random(n) < 0.7 for n in lengths[1:]]
        for mask in masks:
            mask[-1] = True
        prefix, *branches = (rng.integers(4, 260, n) for n in lengths)
        groups.append(Branches(prefix, tuple(branches), tuple(masks)))
    return groups


def pairs_file(folder: Path, count: int, words: int) -> Path:
    rng = np.random.default_rng(1)

    def text(k: int) -> str:
        return " ".join(rng.choice(WORDS, k))

    rows = [{"prompt": text(words), "chosen": text(words), "rejected": text(words + 1)} for _ in range(count)]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def config(model: Path, data: Path, **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {"lr": 1e-3, "batch_size": 8, "precision": "fp32", "seed": 3, **changes}
    return RunConfig(
        method="dpo",
        model=ModelConfig(path=str(model)),
        data=DataConfig(path=str(data), eval_fraction=0.2, max_length=1024),
        train=TrainConfig(**settings),
        save=SaveConfig(every=2, keep=9),
    )


def gradient(policy: Policy, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every trained token, and the gradient of an uneven sum of them, both in fp32 on the CPU."""
    policy.model.zero_grad()
    logprob = policy.tokens(layout.to(policy.device)).logprob
    (logprob * torch.linspace(-1, 1, len(logprob), device=logprob.device)).sum().backward()
    grads = [p.grad.float().flatten() for p in policy.model.parameters() if p.grad is not None]
    return logprob.detach().float().cpu(), torch.cat(grads).cpu()


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(("count", "longest"), [(1, 20), (5, 90), (3, 400)])
def test_flex_attention_gives_the_numbers_and_gradients_of_padded_rows(
    source: str, count: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 the two agree; in bf16 neither is further from fp32 than the other."""
    calls: list[torch.dtype] = []
    flex = attention._flex

    def counted(query: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(query.dtype)
        return flex(query, *rest)

    monkeypatch.setattr(attention, "_flex", counted)
    groups = random_groups(count, count, longest)
    seen = {}
    for dtype in (torch.float32, torch.bfloat16):
        policy = Policy(load_causal_lm(source, dtype=dtype).to("cuda"), pad_id=0)
        seen[dtype] = gradient(policy, shared_layout(groups)), gradient(policy, rows_layout(groups, 0))
    assert {torch.float32, torch.bfloat16} == set(calls)
    (shared, by_shared), (rows, by_rows) = seen[torch.float32]
    assert float((shared - rows).abs().max()) < 1e-3
    assert apart(by_shared, by_rows) < 1e-3
    (low_shared, low_by_shared), (low_rows, low_by_rows) = seen[torch.bfloat16]
    assert float((low_shared - rows).abs().mean()) < 1.5 * float((low_rows - rows).abs().mean()) + 0.01
    assert apart(low_by_shared, by_rows) < 1.5 * apart(low_by_rows, by_rows) + 0.01


def test_rows_of_changing_length_do_not_compile_again_and_again(tiny: Path) -> None:
    policy = Policy(load_causal_lm(str(tiny), dtype=torch.float32).to("cuda"), pad_id=0)
    attention._compiled_flex.cache_clear()
    torch.compiler.reset()
    counters.clear()
    with torch.no_grad():
        for seed, longest in enumerate((300, 200, 500, 30, 20, 400, 150, 25, 600, 90, 333)):
            groups = random_groups(seed, 2, longest)
            shared = policy.sequences(policy.layout(groups)).logprob
            torch.testing.assert_close(shared, policy.sequences(rows_layout(groups, 0).to("cuda")).logprob,
                                       rtol=1e-4, atol=1e-2)  # fmt: skip
    assert attention._compiled_flex.cache_info().currsize == 1
    assert 0 < counters["stats"]["unique_graphs"] <= 6


def test_heads_too_narrow_for_flex_attention_go_group_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_flex", None)
    groups = ((5, 4, 6), (2, 7, 3))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 27, 8, generator=generator) for n in (6, 2, 2))
    module = torch.nn.Identity()
    on_cpu, _ = attention.branching_attention(module, q, k, v, None, groups=groups)
    on_cuda, _ = attention.branching_attention(module, q.cuda(), k.cuda(), v.cuda(), None, groups=groups)
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-4, atol=1e-5)


def test_auto_picks_cuda_and_its_fast_precision(tiny: Path, tmp_path: Path) -> None:
    settings = config(tiny, pairs_file(tmp_path, 20, 3), precision="auto")
    assert settings.train.device == "auto"
    machine = machine_for(settings)
    assert machine.device.type == "cuda"
    fast = torch.cuda.is_bf16_supported(including_emulation=False)
    assert machine.dtype == (torch.bfloat16 if fast else torch.float32)
    method = method_of(settings)
    job, policy = build(settings, method, prepare(settings, method))
    assert policy.device.type == "cuda"
    assert {p.device.type for p in job.optimizer.weights().values()} == {"cuda"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_trains_and_resumes_to_the_same_bytes(tiny: Path, tmp_path: Path, precision: str) -> None:
    settings = config(tiny, pairs_file(tmp_path, 40, 4), precision=precision, epochs=3)
    whole = train(settings, tmp_path / "whole")
    assert whole.steps >= 8
    losses = [json.loads(line)["loss"] for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] == pytest.approx(np.log(2), rel=1e-3)
    assert losses[-1] < 0.9 * losses[0]
    cut = Path(shutil.copytree(whole.folder, tmp_path / "cut"))
    shutil.rmtree(cut / "model")
    later = [p for p in (cut / "checkpoints").glob("step-*") if int(p.name.split("-")[1]) > 4]
    assert later
    for folder in later:
        shutil.rmtree(folder)
    assert resume(cut).steps == whole.steps
    files = ["metrics.jsonl", "samples.jsonl", "results.json"]
    files += [p.relative_to(cut).as_posix() for p in sorted((cut / "model").glob("*.safetensors"))]
    last = max((cut / "checkpoints").glob("step-*"), key=lambda p: int(p.name.split("-")[1])).name
    files += [f"checkpoints/{last}/{part}.safetensors" for part in ("weights", "optimizer", "rng")]
    for name in files:
        assert (cut / name).read_bytes() == (whole.folder / name).read_bytes(), name


def _peak(job: Any, batch: list[Any], rows: int) -> int:
    """Bytes at most while ``rows`` rows go forth and back."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    part = list(range(rows))
    job.objective.share(batch, part, job.objective.begin(1, batch, [part])).loss.backward()
    job.optimizer.zero()
    return torch.cuda.max_memory_allocated()


def test_memory_that_runs_out_halves_the_micro_batch(tmp_path: Path) -> None:
    """Most of the device is taken away between two steps; the second one still gives the number it would have given."""
    model = save_tiny(tmp_path / "model", hidden=256, layers=4, heads=4)
    settings = config(model, pairs_file(tmp_path, 24, 60), micro_batch=8, max_steps=2)
    method = method_of(settings)
    prepared = prepare(settings, method)
    free_job, _ = build(settings, method, prepared)
    want = list(optimise(free_job.objective, free_job.optimizer, free_job.plan, settings.train, LoopState()))
    del free_job
    job, _ = build(settings, method, prepared)
    state = LoopState()
    steps = optimise(job.objective, job.optimizer, job.plan, settings.train, state)
    assert next(steps).metrics["loss"] == pytest.approx(want[0].metrics["loss"], rel=1e-5)
    assert state.cap is None
    batch = list(job.plan.batch(2))
    eight, four = _peak(job, batch, 8), _peak(job, batch, 4)
    torch.cuda.empty_cache()
    base = torch.cuda.memory_allocated()
    assert eight - base > 1.5 * (four - base) > 100e6
    room = (eight + four) // 2 - base
    ballast = torch.empty(torch.cuda.mem_get_info()[0] - room, dtype=torch.uint8, device="cuda")
    step = next(steps)
    del ballast
    assert state.cap in (1, 2, 4)
    assert step.timings["micro_batches"] == 8 / state.cap
    assert step.metrics["loss"] == pytest.approx(want[1].metrics["loss"], rel=1e-4)
    assert step.metrics["grad_norm"] == pytest.approx(want[1].metrics["grad_norm"], rel=1e-3)
