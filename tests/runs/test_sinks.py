"""Sinks: those whose package is here are really written and read back; all get scrubbed values only."""

import importlib.util
import json
import logging
import sqlite3
import sys

import pytest

from trueup.errors import ConfigError
from trueup.runs.sinks import SINKS, Sinks, flat, open_sinks, run_id

CONFIG = {"method": "dpo", "train": {"lr": 1e-6}, "loss": {}, "model": {"path": "https://me:canary-userinfo@host/m"}}


class Recorder:
    """A sink of our own that keeps what it is given, and can break."""

    def __init__(self, breaks=()):
        self.seen, self.breaks = [], breaks

    def _do(self, *what):
        if what[0] in self.breaks:
            raise OSError("service down")
        self.seen.append(what)

    def start(self, config, run_dir):
        self._do("start", config, run_dir)

    def log(self, step, metrics):
        self._do("log", step, dict(metrics))

    def alarm(self, text):
        self._do("alarm", text)

    def close(self):
        self._do("close")


def test_every_sink_gets_everything_scrubbed(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "canary-environment")
    sink = Recorder()
    sinks = Sinks({"own": sink})
    sinks.start(CONFIG, tmp_path)
    sinks.log(1, {"loss": 0.5})
    sinks.alarm("the key canary-environment was refused")
    sinks.close()
    sinks.close()
    assert [s[0] for s in sink.seen] == ["start", "log", "alarm", "close"]
    assert sink.seen[1] == ("log", 1, {"loss": 0.5})
    assert "canary" not in repr(sink.seen)
    assert sink.seen[0][1]["model"]["path"] == "https://***@host/m"


def test_a_sink_that_fails_later_is_named_once_and_left_out(tmp_path, caplog):
    bad, good = Recorder(breaks=("log",)), Recorder()
    sinks = Sinks({"bad": bad, "good": good})
    sinks.start(CONFIG, tmp_path)
    with caplog.at_level(logging.WARNING):
        sinks.log(1, {"loss": 0.5})
        sinks.log(2, {"loss": 0.4})
        sinks.close()
    assert [r.getMessage() for r in caplog.records] == [
        "sink bad failed and is left out from now on: OSError: service down"
    ]
    assert [s[0] for s in good.seen] == ["start", "log", "log", "close"]


def test_a_sink_that_cannot_start_is_an_error_and_the_others_are_closed(tmp_path):
    good = Recorder()
    with pytest.raises(ConfigError, match=r"save\.sinks: bad cannot start: OSError: service down"):
        Sinks({"good": good, "bad": Recorder(breaks=("start",))}).start(CONFIG, tmp_path)
    assert good.seen[-1] == ("close",)


def test_unknown_name(tmp_path):
    with pytest.raises(ConfigError, match="unknown sink 'tensorbord'; there are tensorboard, wandb, trackio, mlflow"):
        open_sinks(["tensorbord"], CONFIG, tmp_path)


@pytest.mark.parametrize("name", SINKS)
def test_a_missing_package_is_named_with_the_pip_line(name, tmp_path, monkeypatch):
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)  # what Python does for a package that cannot be imported
    with pytest.raises(ConfigError, match=rf"{name} needs a package that is not installed .*`pip install {name}`"):
        open_sinks([name], CONFIG, tmp_path)


def test_names_are_stable_and_tell_runs_apart(tmp_path):
    assert flat(CONFIG)["train.lr"] == "1e-06"
    assert run_id(CONFIG, tmp_path) == run_id(dict(reversed(CONFIG.items())), tmp_path)
    assert run_id(CONFIG, tmp_path) != run_id(CONFIG, tmp_path / "other")


def _write(name, run):
    for part in (range(1, 3), range(3, 5)):  # the second part is the resumed run
        sinks = open_sinks([name], CONFIG, run)
        for step in part:
            sinks.log(step, {"loss": 1.0 / step, "accuracy": float("nan") if step == 2 else 0.5})
        sinks.alarm("look here")
        sinks.close()


def _need(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def _nothing_secret_below(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"canary-userinfo" not in path.read_bytes(), path


def test_tensorboard(tmp_path, caplog):
    _need("tensorboard")
    _write("tensorboard", tmp_path)
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [(1, 1), (2, 0.5), (3, 0.3333), (4, 0.25)]
    assert not caplog.records
    _nothing_secret_below(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch, caplog):
    _need("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    _write("wandb", tmp_path)
    assert [r for r in caplog.records if r.name.startswith("trueup")] == []
    found = list((tmp_path / "wandb").rglob("*.wandb"))
    assert found and all(p.stat().st_size for p in found)
    _nothing_secret_below(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path, caplog):
    _need("mlflow")
    _write("mlflow", tmp_path)
    assert [r for r in caplog.records if r.name.startswith("trueup")] == []
    with sqlite3.connect(tmp_path / "mlflow.db") as base:
        rows = base.execute("select run_uuid, step, value from metrics where key = 'loss' order by step").fetchall()
    assert [(r[1], r[2]) for r in rows] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert len({r[0] for r in rows}) == 1, "the resumed run goes on in the same MLflow run"
    _nothing_secret_below(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_trackio(tmp_path, monkeypatch, caplog):
    _need("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    _write("trackio", tmp_path)
    assert [r for r in caplog.records if r.name.startswith("trueup")] == []
    rows = []
    for path in (tmp_path / "trackio").rglob("*.db"):
        with sqlite3.connect(path) as base:
            rows += base.execute("select step, metrics from metrics").fetchall()
    assert sorted((s, json.loads(m)["loss"]) for s, m in rows) == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    _nothing_secret_below(tmp_path)
