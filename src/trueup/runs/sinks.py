"""Optional second homes for metrics: TensorBoard, Weights & Biases, trackio, MLflow.

Each package is imported only when its sink is asked for, and here alone. The run folder stays the record: a sink that
cannot start is an error, one that fails later is named once in the log and left out from then on. Whatever a sink is
given is scrubbed of secrets first, and the packages' own usage reports are switched off.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from trueup.errors import ConfigError
from trueup.runs.scrub import scrub

log = logging.getLogger(__name__)

PROJECT = "trueup"

_QUIET = {
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class Sink(Protocol):
    """Where a run's figures go besides its folder."""

    def start(self, config: Mapping[str, Any], run_dir: Path) -> None:
        """Begins, or goes on with, the run of that folder."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one step."""
        ...

    def alarm(self, text: str) -> None:
        """A warning to be seen."""
        ...

    def close(self) -> None:
        """Ends; everything is delivered."""
        ...


def _load(module: str, package: str, sink: str) -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"save.sinks: {sink} needs a package that is not installed ({error}); run `pip install {package}`, or "
            f"leave {sink} out"
        ) from error


def run_id(config: Mapping[str, Any], run_dir: Path) -> str:
    """The same name for the same run folder and settings, so that a resumed run goes on where it was."""
    return hashlib.sha256(f"{run_dir.absolute()}\n{sorted(flat(config).items())}".encode()).hexdigest()[:16]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings with dotted names, as text."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found


class TensorBoardSink:
    """Event files in ``RUN/tensorboard``."""

    def __init__(self) -> None:
        self._module = _load("torch.utils.tensorboard", "tensorboard", "tensorboard")

    def start(self, config: Mapping[str, Any], run_dir: Path) -> None:
        """Opens a new event file."""
        self._writer = self._module.SummaryWriter(log_dir=str(run_dir / "tensorboard"))
        self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in flat(config).items()))
        self._step = 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar a metric."""
        self._step = step
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def alarm(self, text: str) -> None:
        """A text entry at the current step."""
        self._writer.add_text("alarm", text, self._step)

    def close(self) -> None:
        """Flushes the event file."""
        self._writer.close()


class WandbSink:
    """Weights & Biases; ``WANDB_MODE=offline`` keeps everything in ``RUN/wandb``."""

    def __init__(self) -> None:
        self._module = _load("wandb", "wandb", "wandb")

    def start(self, config: Mapping[str, Any], run_dir: Path) -> None:
        """Starts a run without source code, git data, machine figures or console output."""
        settings = self._module.Settings(
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        self._run = self._module.init(
            project=PROJECT,
            name=run_dir.name,
            id=run_id(config, run_dir),
            resume="allow",
            dir=str(run_dir),
            config=dict(config),
            settings=settings,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One history row."""
        self._run.log(dict(metrics), step=step)

    def alarm(self, text: str) -> None:
        """An alert."""
        self._run.alert(title="trueup alarm", text=text)

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()


class TrackioSink:
    """trackio, on this machine (``TRACKIO_DIR``, else its cache folder)."""

    def __init__(self) -> None:
        self._module = _load("trackio", "trackio", "trackio")

    def start(self, config: Mapping[str, Any], run_dir: Path) -> None:
        """Starts a run, or goes on with the one of this folder."""
        name = f"{run_dir.name}-{run_id(config, run_dir)[:6]}"
        self._run = self._module.init(project=PROJECT, name=name, config=dict(config), resume="allow")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""
        self._module.log(dict(metrics), step=step)

    def alarm(self, text: str) -> None:
        """An alert."""
        self._module.alert(title="trueup alarm", text=text)

    def close(self) -> None:
        """Writes what is left."""
        self._module.finish()


class MlflowSink:
    """MLflow; without ``MLFLOW_TRACKING_URI`` a database in ``RUN/mlflow.db``."""

    def __init__(self) -> None:
        self._module = _load("mlflow", "mlflow", "mlflow")

    def start(self, config: Mapping[str, Any], run_dir: Path) -> None:
        """Starts a run, or goes on with the one of this folder."""
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.absolute() / 'mlflow.db'}"
        self._client = self._module.MlflowClient(tracking_uri=address)
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        ours = run_id(config, run_dir)
        known = self._client.search_runs([experiment], filter_string=f"tags.trueup_run = '{ours}'", max_results=1)
        if known:
            self._run = known[0].info.run_id
        else:
            self._run = self._client.create_run(
                experiment, tags={"trueup_run": ours}, run_name=run_dir.name
            ).info.run_id
            for name, value in flat(config).items():
                self._client.log_param(self._run, name, value[:500])
        self._alarms = 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One point a metric."""
        for name, value in metrics.items():
            self._client.log_metric(self._run, name, value, step=step)

    def alarm(self, text: str) -> None:
        """A tag, for want of alerts."""
        self._alarms += 1
        self._client.set_tag(self._run, f"alarm.{self._alarms}", text)

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._run)


SINKS: dict[str, Callable[[], Sink]] = {
    "tensorboard": TensorBoardSink,
    "wandb": WandbSink,
    "trackio": TrackioSink,
    "mlflow": MlflowSink,
}


class Sinks:
    """Several sinks as one, each given scrubbed values only.

    Args:
        sinks: name -> sink, already constructed.
    """

    def __init__(self, sinks: Mapping[str, Sink]) -> None:
        self._sinks = dict(sinks)

    def start(self, config: Mapping[str, Any], run_dir: Path) -> None:
        """Starts all.

        Raises:
            ConfigError: one that cannot start; those before it are closed again.
        """
        started: dict[str, Sink] = {}
        for name, sink in self._sinks.items():
            try:
                sink.start(scrub(config), run_dir)
            except Exception as error:  # whatever a foreign package raises
                Sinks(started).close()
                raise ConfigError(
                    f"save.sinks: {name} cannot start: {_line(error)}; mend that, or leave {name} out"
                ) from error
            started[name] = sink

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one step, to all."""
        self._each(lambda sink: sink.log(step, metrics))

    def alarm(self, text: str) -> None:
        """A warning, to all."""
        clean = scrub(text)
        self._each(lambda sink: sink.alarm(clean))

    def close(self) -> None:
        """Ends all; a second call does nothing."""
        self._each(lambda sink: sink.close())
        self._sinks.clear()

    def _each(self, do: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                do(sink)
            except Exception as error:  # a service that is down must not end the run; the run folder has it all
                log.warning("sink %s failed and is left out from now on: %s", name, _line(error))
                del self._sinks[name]


def _line(error: Exception) -> str:
    return scrub(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]


def open_sinks(names: Iterable[str], config: Mapping[str, Any], run_dir: Path) -> Sinks:
    """Constructs and starts the sinks of these names (``save.sinks``).

    Raises:
        ConfigError: an unknown name, a package that is not installed (with the pip line), or a sink that cannot start.
    """
    chosen: dict[str, Sink] = {}
    for name in names:
        if name not in SINKS:
            raise ConfigError(f"save.sinks: unknown sink {name!r}; there are {', '.join(SINKS)}")
        chosen[name] = SINKS[name]()
    sinks = Sinks(chosen)
    sinks.start(config, run_dir)
    return sinks
