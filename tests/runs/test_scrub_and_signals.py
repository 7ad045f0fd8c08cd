"""Secrets that must never be written, signals that must save, and lines that people read."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from trueup.runs.console import Bar, duration, figure, safe, show_table, show_texts
from trueup.runs.folder import RunFolder
from trueup.runs.scrub import remember, scrub
from trueup.runs.signals import stop_on_signals
from trueup.runs.sinks import Sinks

# ------------------------------------------------------------------------------------------------------- secrets

CANARIES = {
    "environment": "canary-1-environment",
    "option": "canary-2-option",
    "user-info": "canary-3-userinfo",
    "header": "canary-4-header",
    "key": "canary-5-key",
    "file": "canary-6-file",
    "shape": "hf_canary7canary7canary7",
    "error body": "canary-8/body+=",
}


def test_eight_canaries_reach_no_file_no_sink_and_no_message(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", CANARIES["environment"])
    monkeypatch.setenv("JUDGE_PASSWORD_2", CANARIES["error body"])
    remember(CANARIES["file"] + "\n")
    words = ["trueup", "--judge.api-key", CANARIES["option"], f"--token={CANARIES['option']}", CANARIES["shape"]]
    monkeypatch.setattr(sys, "argv", words)
    config = {
        "method": "dpo",
        "model": {"path": f"https://me:{CANARIES['user-info']}@host/m", "api_key": CANARIES["key"]},
        "note": f"curl -H 'Authorization: Bearer {CANARIES['header']}' -H 'X-Api-Key: {CANARIES['header']}'",
        "seen": [
            CANARIES["environment"],
            f"a{CANARIES['file']}b",
            CANARIES["shape"],
            f"?api_key={CANARIES['key']}&x=1",
        ],
    }
    body = f'{{"error": "key {CANARIES["error body"]} refused, canary-8%2Fbody%2B%3D"}}'
    seen = []

    class Own:
        def start(self, config, run_dir):
            seen.append(config)

        def log(self, step, metrics):
            raise OSError(f"401 {body}")

        def alarm(self, text):
            seen.append(text)

        def close(self):
            seen.append("closed")

    with caplog.at_level(logging.DEBUG), RunFolder.create(tmp_path / "run", config, {"judge": body}) as run:
        assert run.config["note"] == "curl -H 'Authorization: ***' -H 'X-Api-Key: ***'"
        sinks = Sinks({"one": Own(), "two": Own()})
        sinks.start(config, run.path)
        sinks.alarm(body)
        sinks.log(1, {"loss": 1.0})
        found = repr((seen, run.config, run.manifest, caplog.text))
        for path in run.path.rglob("*"):
            if path.is_file():
                found += path.read_text()
    hits = [name for name, canary in CANARIES.items() if canary in found or "canary" in found]
    assert hits == []
    assert found.count("***") > 10
    for setting in ("model.path", "model.api_key", "note", "seen"):
        assert f"config.yaml: {setting} holds a secret and is written with ***" in caplog.text


@pytest.mark.parametrize(
    "innocent",
    [
        {"max_tokens": 4096, "tokens": 12.5, "micro_tokens": 1, "pad_token": "<|im_end|>", "eos_token": "</s>"},
        {"method": "dpo", "train": {"lr": 1e-6, "betas": [0.9, 0.95]}},
        ["trueup", "train", "--data", "hub:owner/set", "--train.micro_tokens", "4096", "key=value"],
        "https://host/path@v2?x=1#a@b and me@example.org, token by token; the secret of good tea: time",
        "bundled:smollm2-135m-instruct",
        "pad_token=<|im_end|> and key=value, tokens=5",
        "A cookie is a biscuit; authorization is a process. Basic arithmetic, bearer of news.",
        None,
        True,
    ],
)
def test_innocent_text_stays_as_it_is(innocent, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "innocent")
    monkeypatch.setenv("SOME_KEY", "train")
    monkeypatch.setenv("SSH_KEY_FILE", "bundled:smollm2")
    assert scrub(innocent) == innocent


def test_scrubbing_twice_changes_nothing_more(monkeypatch):
    monkeypatch.setenv("X_SECRET", "canary-value")
    value = {"a": ["canary-value", "http://u:p@h", "Authorization: Bearer abcdefghijk", "--password=abc"], "token": "x"}
    assert scrub(scrub(value)) == scrub(value)
    assert "***" in json.dumps(scrub(value))


# ------------------------------------------------------------------------------------------------------- signals

LOOP = """
import sys, time
from trueup.runs.signals import stop_on_signals
with stop_on_signals() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("saving", flush=True)
    time.sleep(float(sys.argv[1]))
    print("saved", flush=True)
sys.exit(stop.exit_code)
"""


def loop(seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, str(seconds)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_saves(number):
    with loop(0.05) as process:
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        assert process.stdout.read() == "saving\nsaved\n"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_stops_at_once(second):
    with loop(60) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "saving\n"
        begun = time.monotonic()
        process.send_signal(second)
        assert process.wait(10) == -second
        assert time.monotonic() - begun < 2
        assert process.stdout.read() == ""


def test_what_was_ignored_stays_ignored():
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{LOOP}"
    command = [sys.executable, "-c", ignoring, "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_handlers_are_put_back():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with stop_on_signals() as stop:
        assert not stop.requested and stop.exit_code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and stop.signal == signal.SIGTERM
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_outside_of_the_main_thread_it_says_so(caplog):
    flags = []

    def work():
        with stop_on_signals() as stop:
            flags.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert flags == [False]
    assert "not in the main thread: signals will not save a checkpoint" in caplog.text


# ------------------------------------------------------------------------------------------------------- console


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def plain_console():
    return Console(file=io.StringIO(), force_terminal=False, width=100)


def test_plain_lines_come_at_first_at_last_and_now_and_then():
    clock, console = Clock(), plain_console()
    with Bar(100, "dpo", console=console, every=10, clock=clock, done=40) as bar:
        for step in range(41, 101):
            clock.now += 1
            bar.update(step, {"loss": 0.69314, "lr": 5e-7, "unknown": 3})
            if step == 50:
                bar.note("checkpoint saved [bold]")
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "dpo: step 41/100  loss 0.6931  lr 5e-07  59s left"
    assert lines[1] == "checkpoint saved [bold]"
    assert [int(x.split()[2].split("/")[0]) for x in lines if "step" in x] == [41, 51, 61, 71, 81, 91, 100]
    assert lines[-1] == "dpo: step 100/100  loss 0.6931  lr 5e-07  took 1m00s"


def test_a_bar_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Bar(4, "dpo [x]", console=console) as bar:
        for step in range(1, 5):
            bar.update(step, {"loss": 1 / step})
        bar.note("a note")
    text = console.file.getvalue()
    assert "4/4" in text and "loss 0.2500" in text and "a note" in text and "dpo [x]" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor comes back"


def test_the_bar_goes_away_when_the_loop_fails():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with pytest.raises(ValueError, match="boom"), Bar(4, "dpo", console=console):
        raise ValueError("boom")
    assert "\x1b[?25h" in console.file.getvalue()


def test_tables_and_texts_cannot_steer_the_terminal():
    console = plain_console()
    show_table(
        "Held out [red]",
        ["", "before", "after"],
        [["accuracy\x1b[2J", 0.5, 0.61234], ["n", 1200, True]],
        console=console,
    )
    show_texts("sample", {"before": "a\x07b\nc\u202ed[/bold]", "after": "👩‍🚀 é"}, console=console)
    text = console.file.getvalue()
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert (
        "accuracy\\x1b[2J" in text
        and "0.6123" in text
        and "1,200" in text
        and "True" in text
        and "Held out [red]" in text
    )
    assert "a\\x07b\n  c\\u202ed[/bold]" in text and "👩‍🚀 é" in text
    with pytest.raises(ValueError):
        show_table("t", ["a", "b"], [[1]], console=console)


def test_figures_durations_and_safe_text():
    assert [figure(x) for x in (0, 12345, 0.0, 0.5, 5e-7, -123456.0, float("nan"), "nan", True)] == [
        "0", "12,345", "0.0000", "0.5000", "5e-07", "-1.23e+05", "nan", "nan", "True",
    ]  # fmt: skip
    assert [duration(x) for x in (0.4, 59.6, 185, 7620)] == ["0s", "1m00s", "3m05s", "2h07m"]
    assert safe("a\tb\nc\rd\x00\ud800") == "a\tb\nc\\rd\\x00\\ud800"
