"""Endpoints and the sampler over them, against real servers on loopback that fail on order."""

from __future__ import annotations

import email.utils
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_openai import FakeOpenAI, echo_number
from trueup.data.render import Renderer
from trueup.errors import ConfigError, DataError
from trueup.models.endpoint import Endpoints, fan_out
from trueup.models.load import load_tokenizer
from trueup.models.remote import RemoteSampler
from trueup.models.sample import PromptIds
from trueup.models.sampling import Sampling, answer_seed
from trueup.models.wire import Endpoint, EndpointError, served_models
from trueup.runs.journal import Journal
from trueup.types import Prompt

FAKE = Path(__file__).parents[1] / "fake_openai.py"
BODY = {"messages": [{"role": "user", "content": "hi"}], "seed": 1}
LOOP = "http://127.0.0.1"


def pool(*servers: FakeOpenAI, **settings: Any) -> Endpoints:
    settings = {"timeout": 5.0, "concurrency": 4, **settings}
    return Endpoints([Endpoint(s.url, "tiny", **settings) for s in servers], pause=0.01, recheck=0.05)


def prompts(count: int, raw: bool = False) -> list[Prompt]:
    return [
        Prompt(id=f"p{i}", origin=f"f:{i}", prompt=f"say {i}" if raw else ({"role": "user", "content": f"say {i}"},))
        for i in range(count)
    ]


def closed_port() -> str:
    with FakeOpenAI() as server:
        return server.url


# ── one request ──


@pytest.mark.parametrize("fault", ["429", "408", "500", "503", "half", "empty", "drop"])
def test_what_may_pass_is_tried_again(fault: str) -> None:
    with FakeOpenAI(faults=[fault, fault]) as server, pool(server) as endpoints:
        answer = endpoints.chat(BODY)
        assert answer["choices"][0]["message"]["content"] == echo_number({**BODY, "model": "tiny"})
        assert len(server.requests) == 3
        assert endpoints.health()[0].failed == 2


@pytest.mark.parametrize("fault", ["silence", "drip"])
def test_silence_and_dripping_bytes_end_at_the_timeout(fault: str) -> None:
    with FakeOpenAI(faults=[fault]) as server, pool(server, timeout=0.4) as endpoints:
        begun = time.monotonic()
        endpoints.chat(BODY)
        assert 0.4 <= time.monotonic() - begun < 2
        assert "within 0.4 s" in endpoints.health()[0].reason


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("400", "refuses with 400: a planted 400"),
        ("401", "refuses with 401"),
        ("404", "refuses with 404"),
        ("redirect", "redirects to http://elsewhere.invalid"),
        ("model", "was asked for 'tiny' and answered as 'another'"),
    ],
)
def test_what_will_not_pass_is_an_error_at_once_that_names_the_server(fault: str, said: str) -> None:
    with FakeOpenAI(faults=[fault]) as server, pool(server) as endpoints:
        with pytest.raises(EndpointError, match=said) as caught:
            endpoints.chat(BODY)
        assert caught.value.url == server.url and server.url in str(caught.value)
        assert len(server.requests) == 1
        assert endpoints.health()[0].in_flight == 0


def test_retry_after_in_seconds_and_as_a_date_is_kept() -> None:
    for value, least in (("0.5", 0.5), ("date", 0.9)):
        if value == "date":  # whole seconds: one to two from now
            value = email.utils.formatdate(time.time() + 2, usegmt=True)
        with FakeOpenAI(faults=[f"429:{value}"]) as server, pool(server) as endpoints:
            begun = time.monotonic()
            endpoints.chat(BODY)
            assert least <= time.monotonic() - begun < 4, value


def test_a_busy_server_is_left_alone_by_all_callers_while_another_answers() -> None:
    with FakeOpenAI(faults=["429:2"]) as busy, FakeOpenAI() as free, pool(busy, free) as endpoints:
        begun = time.monotonic()
        for _ in range(10):
            endpoints.chat(BODY)
        assert time.monotonic() - begun < 1.5
        assert (len(busy.requests), len(free.requests)) == (1, 10)


def test_a_server_that_asks_for_an_hour_is_not_waited_for() -> None:
    with FakeOpenAI(faults=["429:3600"]) as server, pool(server) as endpoints:  # noqa: SIM117
        with pytest.raises(EndpointError, match="asks to wait 3,600 s"):
            endpoints.chat(BODY)


def test_429_is_a_queue_while_others_are_served_and_a_fault_when_nobody_is() -> None:
    class Unfair(FakeOpenAI):
        def fault(self, request: dict[str, Any]) -> str:
            return "429" if request["seed"] == 99 and self.answered < 30 else "ok"

    with Unfair(latency=0.01) as server, pool(server, attempts=3) as endpoints:
        with pytest.raises(EndpointError, match="given up after 3 attempts"):
            endpoints.chat({**BODY, "seed": 99})
        assert len(server.requests) == 3
        neighbour = threading.Thread(target=lambda: [endpoints.chat(BODY) for _ in range(30)])
        neighbour.start()
        endpoints.chat({**BODY, "seed": 99})
        neighbour.join()
        assert len([r for r in server.requests if r["seed"] == 99]) > 3 + 3


def test_a_request_is_given_up_after_its_attempts_and_says_why() -> None:
    with FakeOpenAI(chance={"500": 1.0}) as server, pool(server, attempts=2) as endpoints:
        with pytest.raises(EndpointError, match=r"given up after 2 attempts .*a planted 500.*What is finished is kept"):
            endpoints.chat(BODY)
        assert len(server.requests) == 2


def test_pauses_grow_and_are_not_in_step() -> None:
    spans = []
    for _ in range(4):
        server = FakeOpenAI(faults=["500"] * 2)
        with server, Endpoints([Endpoint(server.url, "tiny")], pause=0.1) as endpoints:
            begun = time.monotonic()
            endpoints.chat(BODY)
            spans.append(time.monotonic() - begun)
    assert all(0.3 <= s < 0.75 for s in spans)  # 0.1 and 0.2, each 1 to 1.5 times
    assert max(spans) - min(spans) > 0.001


def test_all_down_names_all_and_a_server_that_comes_back_is_used_again() -> None:
    first, second = closed_port(), closed_port()
    with Endpoints([Endpoint(u, "tiny", timeout=1) for u in (first, second)], pause=0.01, recheck=0.02) as endpoints:
        with pytest.raises(EndpointError, match="no server answers") as caught:
            endpoints.chat(BODY)
        assert first in str(caught.value) and second in str(caught.value)
        with FakeOpenAI(port=int(second.rsplit(":", 1)[1])) as server:
            time.sleep(0.05)
            endpoints.chat(BODY)
            assert len(server.requests) == 1
            assert [h.healthy for h in endpoints.health()] == [False, True]


def test_a_dead_server_costs_three_failures_and_then_nothing() -> None:
    with FakeOpenAI() as alive:
        endpoints = Endpoints([Endpoint(closed_port(), "tiny"), Endpoint(alive.url, "tiny")], pause=0.01, recheck=60)
        with endpoints:
            for _ in range(20):
                endpoints.chat(BODY)
            dead = endpoints.health()[0]
            assert not dead.healthy and 3 <= dead.failed <= 4
            assert len(alive.requests) == 20


def test_a_host_that_swallows_packets_keeps_nobody_waiting() -> None:
    """A port that accepts and says nothing: its checks take their full time while the others go on."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as mute, FakeOpenAI() as alive:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        settings = {"concurrency": 1, "timeout": 1.0}
        endpoints = Endpoints([Endpoint(u, "tiny", **settings) for u in (url, alive.url)], pause=0.01, recheck=0.1)
        with endpoints:
            for _ in range(4):  # three time-outs
                endpoints.chat(BODY)
            while endpoints.health()[0].healthy:
                endpoints.chat(BODY)
            time.sleep(0.15)  # a check is due
            begun = time.monotonic()
            for _ in range(10):
                endpoints.chat(BODY)
            assert time.monotonic() - begun < 0.8


def test_no_endpoint_gets_more_than_its_share_at_once() -> None:
    with FakeOpenAI(latency=0.03) as one, FakeOpenAI(latency=0.03) as two:
        endpoints = Endpoints([Endpoint(one.url, "tiny", concurrency=2), Endpoint(two.url, "tiny", concurrency=5)])
        with endpoints:
            assert endpoints.capacity == 7
            list(fan_out(lambda _: endpoints.chat(BODY), range(60), 20))
        assert (one.most, two.most) == (2, 5)
        assert len(one.requests) + len(two.requests) == 60


def test_closing_ends_requests_that_wait() -> None:
    with FakeOpenAI(chance={"500": 1.0}) as server:
        endpoints = Endpoints([Endpoint(server.url, "tiny", attempts=50)], pause=5)
        seen: list[str] = []

        def ask() -> None:
            try:
                endpoints.chat(BODY)
            except EndpointError as error:
                seen.append(str(error))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.2)
        endpoints.close()
        thread.join(2)
        assert not thread.is_alive() and "closed" in seen[0]


def test_a_hosted_alias_may_answer_by_its_dated_name_only() -> None:
    dated: dict[str, Any] = {}

    class Dated(FakeOpenAI):
        def answer(self, request: dict[str, Any], chat: bool, fault: str) -> dict[str, Any]:
            return {**super().answer(request, chat, fault), **dated}

    with Dated() as server, pool(server) as endpoints:
        dated["model"] = "tiny-2024-08-06"
        endpoints.chat(BODY)
        dated["model"] = "tiny-large"
        with pytest.raises(EndpointError, match="answered as 'tiny-large'"):
            endpoints.chat(BODY)
        with pytest.raises(ConfigError, match="'other' was put to endpoints that serve 'tiny'"):
            endpoints.chat({**BODY, "model": "other"})


# ── settings, keys, checks ──


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "file:///etc/passwd"}, "no http"),
        ({"url": "127.0.0.1:8000"}, "no http"),
        ({"url": "http://"}, "no http"),
        ({"url": f"{LOOP}:99999"}, "no address"),
        ({"url": "http://me:hunter22@host"}, "would be logged"),
        ({"url": f"{LOOP}/v1?key=abc"}, "query"),
        ({"model": ""}, "model: '' makes no sense"),
        ({"concurrency": 0}, "concurrency: 0"),
        ({"timeout": 0.0}, "timeout: 0.0"),
        ({"attempts": 0}, "attempts: 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Endpoint(**{"url": LOOP, "model": "tiny", **settings})
    assert "hunter22" not in str(caught.value)


def test_pools_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="no endpoint"):
        Endpoints([])
    with pytest.raises(ConfigError, match="twice"):
        Endpoints([Endpoint(LOOP, "tiny"), Endpoint(f"{LOOP}/v1/", "tiny")])
    with pytest.raises(ConfigError, match="one model"):
        Endpoints([Endpoint(LOOP, "tiny"), Endpoint(f"{LOOP}:1", "large")])


def test_the_key_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    canary = "canary-7f3a9c55e1"
    monkeypatch.setenv("SOME_VARIABLE", canary)
    with FakeOpenAI(faults=["500", "401"]) as server, pool(server, api_key_env="SOME_VARIABLE") as endpoints:
        with pytest.raises(EndpointError) as caught:  # the server repeats the header in its error
            endpoints.chat(BODY)
        assert server.headers[0]["Authorization"] == f"Bearer {canary}"
        told = [str(caught.value), repr(endpoints.health()), caplog.text, repr(Endpoint(server.url, "tiny", "SOME"))]
        assert not any(canary in text for text in told)
        assert "sent Bearer ***" in str(caught.value)
    with pytest.raises(ConfigError, match="variable UNSET_VARIABLE is not set"):
        Endpoints([Endpoint(LOOP, "tiny", "UNSET_VARIABLE")])
    monkeypatch.setenv("SOME_VARIABLE", "a\x07b")
    with pytest.raises(ConfigError, match="no header"):
        Endpoints([Endpoint(LOOP, "tiny", "SOME_VARIABLE")])


def test_a_proxy_of_the_environment_does_not_see_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", closed_port())
    monkeypatch.setenv("http_proxy", os.environ["HTTP_PROXY"])
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with FakeOpenAI() as server, pool(server) as endpoints:
        endpoints.check()


def test_check_names_every_server_that_is_down_or_serves_something_else() -> None:
    down = closed_port()
    with FakeOpenAI() as good, FakeOpenAI(model="large") as other:
        with pool(good) as fine, Endpoints([Endpoint(u, "tiny") for u in (good.url, other.url, down)]) as endpoints:
            fine.check()
            with pytest.raises(EndpointError) as caught:
                endpoints.check()
        said = str(caught.value)
        assert f"{other.url}: serves 'large', not 'tiny'" in said and f"{down}: " in said and good.url not in said
        assert caught.value.exit_code == 2
        assert served_models(other.url) == ["large"]
        with pytest.raises(EndpointError, match="Start the server"):
            served_models(down)


# ── the sampler ──


def test_conversations_and_raw_text_get_their_answers_with_seeds_of_their_own() -> None:
    with FakeOpenAI() as server, pool(server) as endpoints:
        sampler = RemoteSampler(endpoints, identity="v7")
        rows = [*prompts(3), Prompt(id="raw", origin="f:9", prompt="Once")]
        found = {(s.prompt, s.index): s for s in sampler.sample(rows, Sampling(n=2, seed=5))}
        assert sorted(found) == [(p.id, k) for p in rows for k in range(2)]
        seeds = [r["seed"] for r in server.requests]
        assert len(set(seeds)) == 8 and all(0 <= s < 2**31 for s in seeds)
        raw = [r for r in server.requests if "prompt" in r]
        assert sorted(r["seed"] for r in raw) == sorted(answer_seed(5, "Once", k) & 0x7FFFFFFF for k in range(2))
        assert all(r["prompt"] == "Once" and "messages" not in r for r in raw)
        one = found["raw", 1]
        assert one.text == echo_number({"prompt": "Once", "seed": answer_seed(5, "Once", 1) & 0x7FFFFFFF})
        assert (one.policy, one.finish, one.ids, one.logprobs, one.model_logprobs) == ("v7", "stop", None, None, None)
        again = {(s.prompt, s.index): s.text for s in sampler.sample(rows[::-1], Sampling(n=2, seed=5))}
        assert again == {key: s.text for key, s in found.items()}
        assert (sampler.speed.answers, sampler.speed.tokens, sampler.speed.truncated) == (16, 16 * 7, 0)
        assert sampler.speed.tokens_per_second > 0
        assert RemoteSampler(endpoints).identity == f"tiny at {server.url}"


def test_every_filter_is_sent_and_a_limit_truncates() -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, max_new_tokens=3, stop=("\n",), stop_ids=(7,))
    with FakeOpenAI() as server, pool(server) as endpoints:
        sample = next(RemoteSampler(endpoints).sample(prompts(1), sampling))
        assert (sample.finish, len(sample.text.split())) == ("length", 3)
        sent = {k: v for k, v in server.requests[0].items() if k not in ("messages", "seed")}
        assert sent == {
            "model": "tiny", "n": 1, "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.0,
            "repetition_penalty": 1.0, "max_tokens": 3, "stop": ["\n"], "stop_token_ids": [7],
        }  # fmt: skip
        hosted = RemoteSampler(endpoints, dialect="openai")
        with pytest.raises(ConfigError, match="no top_k, min_p and stop_ids"):
            hosted.sample(prompts(1), sampling)
        next(hosted.sample(prompts(1), Sampling(max_new_tokens=3)))
        sent = {k: v for k, v in server.requests[1].items() if k not in ("messages", "seed")}
        assert sent == {"model": "tiny", "n": 1, "temperature": 1.0, "top_p": 1.0, "max_completion_tokens": 3}
        with pytest.raises(ConfigError, match="no token ids"):
            RemoteSampler(endpoints, dialect="openai", token_ids=True)
        with pytest.raises(ConfigError, match="no token ids"):
            hosted.sample_ids([PromptIds(id="a", ids=np.array([1]))], Sampling())


@pytest.mark.parametrize("raw", [False, True])
def test_log_probabilities_go_where_they_belong(raw: bool) -> None:
    plain, cool, greedy = Sampling(), Sampling(temperature=0.5), Sampling(temperature=0.0)
    with FakeOpenAI() as server, pool(server) as endpoints:
        for kind, sampling, drawn, model in [
            ("raw", plain, True, True),
            ("raw", cool, False, True),
            ("raw", greedy, "zeros", True),
            ("processed", plain, True, True),
            ("processed", cool, True, False),
        ]:
            sampler = RemoteSampler(endpoints, logprobs=kind, token_ids=True)  # type: ignore[arg-type]
            sample = next(sampler.sample(prompts(1, raw), sampling))
            words = [(" " if i else "") + w for i, w in enumerate(sample.text.split(" "))]
            given = np.array([-0.25 * (1 + len(t) % 4) for t in (*words, "<end>")])
            assert sample.ids is not None and sample.ids.tolist() == [sum(t.encode()) for t in (*words, "<end>")]
            for wanted, found in ((drawn, sample.logprobs), (model, sample.model_logprobs)):
                if wanted is False:
                    assert found is None
                else:
                    np.testing.assert_array_equal(found, np.zeros(7) if wanted == "zeros" else given)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("logprobs", "gave 6 log-probabilities for 7 tokens"),
        ("nan", "log-probabilities in a wrong shape"),
        ("filter", "ended an answer with 'content_filter'"),
        ("refusal", "refused to answer: 'I would rather not.'"),
    ],
)
def test_an_answer_that_cannot_be_used_names_server_and_prompt(fault: str, said: str) -> None:
    with FakeOpenAI(faults=[fault]) as server, pool(server) as endpoints:
        with pytest.raises(EndpointError, match=said) as caught:
            list(RemoteSampler(endpoints, logprobs="raw", token_ids=True).sample(prompts(1), Sampling()))
        assert server.url in str(caught.value) and "prompt 'p0', answer 0" in str(caught.value)


def test_without_ids_only_the_ending_token_may_lack_its_log_probability() -> None:
    with FakeOpenAI(faults=["logprobs", "logprobs"]) as server, pool(server) as endpoints:
        sampler = RemoteSampler(endpoints, logprobs="raw")
        sample = next(sampler.sample(prompts(1), Sampling()))
        assert sample.logprobs is not None and len(sample.logprobs) == 6
        with pytest.raises(EndpointError, match="gave 2 log-probabilities for 3 tokens"):
            next(sampler.sample(prompts(1), Sampling(max_new_tokens=3)))


def test_bent_bodies_are_errors_and_never_crashes() -> None:
    bend: dict[str, Any] = {}

    class Bent(FakeOpenAI):
        def answer(self, request: dict[str, Any], chat: bool, fault: str) -> dict[str, Any]:
            body = super().answer(request, chat, fault)
            body["choices"][0] |= bend.get("choice", {})
            return body | bend.get("body", {})

    shapes: list[dict[str, Any]] = [
        {"body": {"choices": []}}, {"body": {"choices": [1]}}, {"body": {"choices": "x"}}, {"body": {"usage": None}},
        {"body": {"usage": {"completion_tokens": "7"}}}, {"body": {"usage": {"completion_tokens": 5}}},
        {"body": {"model": None}}, {"choice": {"message": None}}, {"choice": {"message": {"content": 3}}},
        {"choice": {"message": {"tool_calls": [{}]}}}, {"choice": {"finish_reason": None}},
        {"choice": {"logprobs": None}}, {"choice": {"logprobs": {"content": None}}},
        {"choice": {"logprobs": {"content": [1, 2]}}}, {"choice": {"logprobs": {"content": [{"logprob": True}] * 7}}},
        {"choice": {"logprobs": {"content": [{"logprob": 0.5}] * 7}}}, {"choice": {"token_ids": [-1] * 7}},
        {"choice": {"token_ids": [1.5] * 7}}, {"choice": {"token_ids": None}}, {"choice": {"token_ids": [1]}},
    ]  # fmt: skip
    with Bent() as server, pool(server, attempts=1) as endpoints:
        sampler = RemoteSampler(endpoints, logprobs="raw", token_ids=True)
        for shape in shapes:
            bend.clear()
            bend.update(shape)
            with pytest.raises(EndpointError, match=server.url):
                list(sampler.sample(prompts(1), Sampling()))
        bend.clear()
        assert len(list(sampler.sample(prompts(1), Sampling()))) == 1


def test_prompts_that_cannot_be_asked() -> None:
    with FakeOpenAI(faults=["400"]) as server, pool(server) as endpoints:
        sampler = RemoteSampler(endpoints)
        with pytest.raises(DataError, match="there is no prompt"):
            sampler.sample([], Sampling())
        with pytest.raises(DataError, match="f:1: prompt: empty"):
            sampler.sample([*prompts(1), Prompt(id="e", origin="f:1", prompt=())], Sampling())
        with pytest.raises(DataError, match=r"e: prompt: empty"):
            sampler.sample_ids([PromptIds(id="e", ids=np.array([], dtype=np.int32))], Sampling())
        assert not server.requests
        with pytest.raises(DataError, match=r"f:0: prompt: .*refuses with 400"):
            list(sampler.sample(prompts(1), Sampling()))


def test_with_a_renderer_the_server_gets_the_tokens_of_training(tiny_original: Path) -> None:
    renderer = Renderer(load_tokenizer(str(tiny_original)))
    row = prompts(1)[0]
    with FakeOpenAI() as server, pool(server) as endpoints:
        sample = next(RemoteSampler(endpoints, renderer=renderer).sample([row], Sampling(seed=2)))
        ids = renderer.prompt(row)
        assert server.requests[0]["prompt"] == ids.tolist()
        assert server.requests[0]["seed"] == answer_seed(2, ids.astype(np.int32).tobytes(), 0) & 0x7FFFFFFF
        assert sample.prompt == "p0"


# ── many at once ──


def test_a_slow_caller_holds_the_servers_back() -> None:
    with FakeOpenAI() as server, pool(server, concurrency=2) as endpoints:
        samples = RemoteSampler(endpoints).sample(prompts(100), Sampling())
        next(samples)
        time.sleep(0.3)
        assert len(server.requests) <= 5  # one handed on, twice two under way
        samples.close()  # type: ignore[attr-defined]
        time.sleep(0.1)
        asked = len(server.requests)
        time.sleep(0.1)
        assert len(server.requests) == asked <= 5


def test_a_failure_comes_after_what_was_under_way() -> None:
    gate = threading.Event()

    def work(item: int) -> int:
        if item == 3:
            raise ValueError("planted")
        if item in (0, 2):
            gate.wait(5)
        return item

    results = fan_out(work, iter(range(100)), 3)
    got = [next(results)]
    assert got == [1]  # 0 and 2 wait
    threading.Timer(0.1, gate.set).start()
    with pytest.raises(ValueError, match="planted"):
        for result in results:
            got.append(result)  # noqa: PERF402
    assert {0, 1, 2} <= set(got) and len(got) == len(set(got)) <= 7


def test_answers_are_complete_and_single_under_every_fault_at_once() -> None:
    chance = {"429": 0.1, "500": 0.1, "half": 0.05, "drop": 0.05, "429:0.02": 0.05}
    with FakeOpenAI(chance=chance) as a, FakeOpenAI(chance=chance, seed=1) as b, pool(a, b, attempts=12) as endpoints:
        got = [(s.prompt, s.index) for s in RemoteSampler(endpoints).sample(prompts(60), Sampling(n=3))]
        assert len(got) == len(set(got)) == 180
        # every fault was one more request, and nothing else was
        assert len(a.requests) + len(b.requests) == 180 + sum(h.failed for h in endpoints.health())


@pytest.fixture
def processes() -> Iterator[Any]:
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> tuple[str, subprocess.Popen[str]]:
        process = subprocess.Popen([sys.executable, str(FAKE), *options], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip(), process

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_two_of_four_servers_are_killed_and_nothing_is_lost_or_doubled(processes: Any) -> None:
    servers = [processes("--latency", "0.05") for _ in range(4)]
    endpoints = Endpoints([Endpoint(u, "tiny", concurrency=4) for u, _ in servers], pause=0.01)
    with endpoints:
        endpoints.check()
        got: list[tuple[str, int]] = []
        for sample in RemoteSampler(endpoints).sample(prompts(100), Sampling(n=2)):
            got.append((sample.prompt, sample.index))
            if len(got) in (30, 60):
                servers[len(got) // 30][1].send_signal(signal.SIGKILL)
        assert len(got) == len(set(got)) == 200
        health = endpoints.health()
        assert [h.healthy for h in health] == [True, False, False, True]
        assert sum(h.answered for h in health) == 200


def test_when_the_last_server_dies_the_journal_keeps_what_is_finished(tmp_path: Path, processes: Any) -> None:
    path, rows, sampling = tmp_path / "out.part", prompts(20), Sampling(n=2)

    def go_on(url: str) -> None:
        with (
            Journal(path, {"model": "tiny"}) as journal,
            Endpoints([Endpoint(url, "tiny", concurrency=2, attempts=3)], pause=0.01) as endpoints,
        ):
            missing = {p.id: [k for k in range(2) if f"{p.id}#{k}" not in journal] for p in rows}
            todo = [p for p in rows if missing[p.id]]
            for sample in RemoteSampler(endpoints).sample(todo, sampling, indices=lambda name: missing[name]):
                assert f"{sample.prompt}#{sample.index}" not in journal
                journal.add(f"{sample.prompt}#{sample.index}", {"answer": sample.text})

    url, _ = processes("--die-after", "15")
    with pytest.raises(EndpointError, match=f"no server answers after 3 attempts .*{url}"):
        go_on(url)
    with Journal(path, {"model": "tiny"}) as journal:
        kept = dict(journal.records)
    assert 13 <= len(kept) <= 16
    with FakeOpenAI() as server:
        go_on(server.url)
        assert len(server.requests) == 40 - len(kept)  # no finished call is made again
    with Journal(path, {"model": "tiny"}) as journal:
        assert len(journal.records) == 40
        assert {k: v for k, v in journal.records.items() if k in kept} == kept


def test_four_servers_are_almost_four_times_as_fast_as_one(processes: Any) -> None:
    urls = [processes("--latency", "0.15")[0] for _ in range(4)]

    def seconds(count: int) -> float:
        with Endpoints([Endpoint(u, "tiny", concurrency=2) for u in urls[:count]]) as endpoints:
            endpoints.check()
            begun = time.monotonic()
            assert len(list(RemoteSampler(endpoints).sample(prompts(32), Sampling()))) == 32
            return time.monotonic() - begun

    # a busy machine may spoil one measurement
    assert any(seconds(1) / seconds(4) >= 3.6 for _ in range(3))


def test_a_silent_server_does_not_keep_a_process_alive(processes: Any) -> None:
    url, _ = processes("--faults", "ok,silence,silence")
    code = f"""
from trueup.models.endpoint import Endpoints, fan_out
from trueup.models.wire import Endpoint
e = Endpoints([Endpoint({url!r}, "tiny", concurrency=3, timeout=50)])
print(len(next(fan_out(e.completions, [dict(prompt=str(i)) for i in range(3)], 3))["choices"]), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
