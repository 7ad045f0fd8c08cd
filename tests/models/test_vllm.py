"""A real vLLM server, in an environment of its own; skipped unless TRUEUP_VLLM_PYTHON names its interpreter.

    TRUEUP_VLLM_PYTHON=~/vllm/bin/python pytest tests/models/test_vllm.py

TRUEUP_VLLM_MODEL names the model; without it the bundled one is served. The server computes in float32,
so that its log-probabilities can be held against the trainer's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from trueup.data.render import Renderer
from trueup.models.bundled import bundled_path
from trueup.models.endpoint import Endpoints
from trueup.models.handover import mismatch
from trueup.models.load import load_causal_lm, load_tokenizer
from trueup.models.remote import RemoteSampler
from trueup.models.sampling import Sample, Sampling
from trueup.models.wire import Endpoint, EndpointError
from trueup.types import Prompt

PYTHON = os.environ.get("TRUEUP_VLLM_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="TRUEUP_VLLM_PYTHON names no interpreter with vllm")
START = 600.0  # seconds to load and compile

ROWS = [
    Prompt(id=f"p{i}", origin=f"f:{i}", prompt=({"role": "user", "content": text},))
    for i, text in enumerate(["Name three colours.", "What is 2 + 3?", "Write a line about rain.", "Say hello."])
]


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model, which both sides read."""
    named = os.environ.get("TRUEUP_VLLM_MODEL")
    return Path(named) if named else bundled_path()


@pytest.fixture(scope="module")
def endpoints(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    command = [
        str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", "policy", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--max-model-len", "1024", "--generation-config", "vllm", "--enforce-eager",
    ]  # fmt: skip
    settings = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=settings | dict(os.environ), start_new_session=True
        )
    try:
        with Endpoints([Endpoint(f"http://127.0.0.1:{port}", "policy", concurrency=16, timeout=120)]) as pool:
            deadline = time.monotonic() + START
            while True:
                try:
                    pool.check()
                    break
                except EndpointError:
                    assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
                    time.sleep(1)
            yield pool
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too, whatever they are at
        process.wait()


def by_key(samples: Iterator[Sample]) -> dict[tuple[str, int], Sample]:
    return {(s.prompt, s.index): s for s in samples}


def test_answers_by_chat_and_by_tokens_are_the_same(endpoints: Endpoints, folder: Path) -> None:
    sampling = Sampling(temperature=0.0, max_new_tokens=24)
    chat = by_key(RemoteSampler(endpoints, token_ids=True).sample(ROWS, sampling))
    renderer = Renderer(load_tokenizer(str(folder)))
    ids = by_key(RemoteSampler(endpoints, token_ids=True, renderer=renderer).sample(ROWS, sampling))
    assert len(chat) == len(ids) == 4
    for key, sample in chat.items():
        assert sample.ids is not None and sample.ids.tolist() == ids[key].ids.tolist()  # type: ignore[union-attr]
        assert sample.finish == (
            "length" if len(sample.ids) == 24 and sample.ids[-1] not in renderer.eos_ids else "stop"
        )


def test_the_trainer_finds_the_log_probabilities_of_the_server(endpoints: Endpoints, folder: Path) -> None:
    renderer = Renderer(load_tokenizer(str(folder)))
    sampler = RemoteSampler(endpoints, logprobs="raw", token_ids=True, renderer=renderer)
    found = by_key(sampler.sample(ROWS, Sampling(n=4, max_new_tokens=48, seed=1)))
    assert len(found) == 16 and len({s.text for s in found.values()}) > 4
    model = load_causal_lm(str(folder), dtype=torch.float32).eval()
    trainer, server = [], []
    for row in ROWS:
        prompt = renderer.prompt(row)
        for k in range(4):
            sample = found[row.id, k]
            assert sample.ids is not None and sample.model_logprobs is not None
            ids = torch.tensor(np.concatenate([prompt, sample.ids]), dtype=torch.long)[None]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
            trainer.append(logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].numpy())
            server.append(sample.model_logprobs)
    one, two = np.concatenate(trainer), np.concatenate(server)
    apart = mismatch(one, two, np.ones(len(one), dtype=bool))
    assert apart.token_mult_prob_error < 1.01 and apart.kl < 1e-3, apart
    assert sampler.speed.tokens == len(one)


def test_one_seed_one_answer(endpoints: Endpoints) -> None:
    sampling = Sampling(n=2, max_new_tokens=16, seed=3)
    one = {k: s.text for k, s in by_key(RemoteSampler(endpoints).sample(ROWS[:2], sampling)).items()}
    assert len(set(one.values())) == 4
    two = by_key(RemoteSampler(endpoints).sample(ROWS[:1], sampling))
    assert {k: s.text for k, s in two.items()} == {k: t for k, t in one.items() if k[0] == "p0"}


def test_a_prompt_past_the_context_is_told_of_its_row(endpoints: Endpoints) -> None:
    row = Prompt(id="long", origin="rows.jsonl:7", prompt="word " * 3000)
    with pytest.raises(Exception, match=r"rows.jsonl:7: prompt: .*refuses with 400"):
        list(RemoteSampler(endpoints).sample([row], Sampling()))
