"""Throughput of the sampler over 1, 2 and 4 servers: small fake ones, processes of their own that take a fixed time.

A server takes so many requests at once and answers each after a fixed latency, so that four can do four times the work
of one; what is lost is lost here, in the client. Then the same with one of four killed on the way. An answer that is missing or comes twice
ends the benchmark.

    python benchmarks/fanout.py [--rounds 3] [--requests 400]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from trueup.models.endpoint import Endpoints
from trueup.models.remote import RemoteSampler
from trueup.models.sampling import Sampling
from trueup.models.wire import Endpoint
from trueup.types import Prompt

HERE = Path(__file__).resolve().parent
FAKE = HERE.parent / "tests" / "fake_openai.py"
LATENCY, CONCURRENCY = 0.15, 4


@contextlib.contextmanager
def servers(count: int) -> Iterator[list[tuple[str, subprocess.Popen[str]]]]:
    command = [sys.executable, str(FAKE), "--latency", str(LATENCY)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        yield [(p.stdout.readline().strip(), p) for p in running]  # type: ignore[union-attr]
    finally:
        for process in running:
            process.kill()
            process.wait()


def rate(urls: list[str], requests: int, kill: subprocess.Popen[str] | None = None) -> float:
    """Answers a second."""
    rows = [
        Prompt(id=str(i), origin=f"f:{i}", prompt=({"role": "user", "content": f"say {i}"},)) for i in range(requests)
    ]
    pool = [Endpoint(url, "tiny", concurrency=CONCURRENCY) for url in urls]
    with Endpoints(pool) as endpoints:
        endpoints.check()
        begun = time.perf_counter()
        seen = set()
        for sample in RemoteSampler(endpoints).sample(rows, Sampling()):
            assert sample.prompt not in seen, f"{sample.prompt} came twice"
            seen.add(sample.prompt)
            if kill is not None and len(seen) == requests // 4:
                kill.kill()
        assert len(seen) == requests
        return requests / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=400)
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    killed: list[float] = []
    for _ in range(given.rounds):
        for count, found in rates.items():
            with servers(count) as running:
                found.append(rate([u for u, _ in running], given.requests * count // 4))
        with servers(4) as running:
            killed.append(rate([u for u, _ in running], given.requests, running[0][1]))
    speedup = [four / one for one, four in zip(rates[1], rates[4], strict=True)]
    result = {
        "answers_per_second": {str(k): round(statistics.median(v), 1) for k, v in rates.items()},
        "ideal_of_one": round(CONCURRENCY / LATENCY, 1),
        "speedup_1_to_4": round(statistics.median(speedup), 2),
        "speedups": [round(s, 2) for s in speedup],
        "one_of_four_killed_after_a_quarter": round(statistics.median(killed), 1),
    }
    print(json.dumps(result, indent=1))
    if statistics.median(speedup) < 3.6:
        sys.exit("four servers are less than 3.6 times as fast as one")


if __name__ == "__main__":
    main()
